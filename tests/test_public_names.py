"""What `import sqlsched` offers."""

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import sqlsched


@pytest.mark.parametrize("name", sqlsched.__all__)
def test_each_public_name_is_what_its_home_defines(name: str) -> None:
    home = import_module(f"sqlsched.{sqlsched._HOMES[name]}")
    assert getattr(sqlsched, name) is getattr(home, name)


def test_no_module_takes_the_name_of_something_public() -> None:
    modules = {module.name for module in iter_modules(sqlsched.__path__)}
    assert modules.isdisjoint(sqlsched.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        sqlsched.nonesuch  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, sqlsched; print(sorted({'asyncio','sqlite3','click'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_what_is_listed_is_what_is_there() -> None:
    assert sqlsched.__all__ == sorted(sqlsched._HOMES)
