"""Threads that are kept for the next call, and keep nobody."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from sqlsched.brokers.threads import Threads

name: ContextVar[str] = ContextVar("name", default="nobody")


async def test_a_call_gets_the_context_of_its_caller_and_keeps_its_own_changes() -> None:
    threads = Threads(asyncio.get_running_loop())

    def change() -> str:
        before = name.get()
        name.set("changed")
        return before

    name.set("ada")
    assert await threads.run(change) == "ada"
    assert await threads.run(change) == "ada"
    assert name.get() == "ada"


async def test_calls_one_after_another_share_a_thread_and_calls_at_once_do_not() -> None:
    threads = Threads(asyncio.get_running_loop())
    first = await threads.run(threading.get_ident)
    assert await threads.run(threading.get_ident) == first
    both = threading.Barrier(2)

    def meet() -> int:
        both.wait(10)
        return threading.get_ident()

    idents = await asyncio.gather(threads.run(meet), threads.run(meet))
    assert len(set(idents)) == 2


@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration(), SystemExit(3)])
async def test_whatever_a_call_raises_reaches_its_caller_and_ends_no_thread(
    error: BaseException,
) -> None:
    threads = Threads(asyncio.get_running_loop())

    def fail() -> None:
        raise error

    with pytest.raises((type(error), RuntimeError)) as caught:  # a coroutine lets no StopIteration
        await threads.run(fail)
    assert error in (caught.value, caught.value.__cause__)
    assert await threads.run(lambda: 1) == 1


async def test_a_thousand_calls_all_come_back() -> None:
    threads = Threads(asyncio.get_running_loop())
    ended: list[int] = []
    calls = [threads.run(lambda n=n: n, lambda: ended.append(1)) for n in range(1000)]  # type: ignore[misc]
    assert await asyncio.gather(*calls) == list(range(1000))
    assert len(ended) == 1000


async def test_idle_threads_end_when_it_is_closed() -> None:
    threads = Threads(asyncio.get_running_loop())
    thread = await threads.run(threading.current_thread)
    threads.close()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert await threads.run(lambda: "again") == "again"
