"""Real `sqlsched run` processes whose clock is set while they run, by libfaketime."""

import signal
import time
from pathlib import Path

import pytest

from sqlsched.storage.connection import open_for_reading
from tests.faults.courses import check_coverage
from tests.faults.harness import Fleet, now
from tests.faults.nominal import SECOND, Every, Within
from tests.servers import wait_for

DAY = 86_400


class Faked(Fleet):
    """Processes for which it is another time than for us, by so many seconds."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        libraries = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
        if not libraries:
            pytest.skip("libfaketime is not installed")
        super().__init__(directory)
        self.offset = directory / "offset"
        self.set(0)
        for name, value in {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }.items():
            monkeypatch.setenv(name, value)

    def __enter__(self) -> "Faked":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.log.close()

    def set(self, seconds: int) -> None:
        """Set their clock, in one moment."""
        new = self.directory / "new"
        new.write_text(f"{seconds:+}\n")
        new.replace(self.offset)

    def step(self, seconds: int, by: int) -> None:
        """Set it, and wait until that was noticed."""
        before = self.said().count(f"the clock was set by {by:+}.0 s")
        self.set(seconds)
        wait_for(lambda: self.said().count(f"the clock was set by {by:+}.0 s") > before)

    def wait_for_runs(self) -> None:
        before = self.ran().total()
        wait_for(lambda: self.ran().total() > before)

    def said(self) -> str:
        return (self.directory / "log.txt").read_text()

    def rows(self, schedule_id: str) -> list[tuple[int, int, str, int | None, int]]:
        database = open_for_reading(self.path)
        rows = database.execute(
            """SELECT scheduled_us, attempt, status, last_us, count FROM runs
               WHERE schedule_id = ? ORDER BY scheduled_us, attempt""",
            (schedule_id,),
        ).fetchall()
        database.close()
        return rows

    def stop_and_account(self, first: int, last: int) -> None:
        """End them in order, and hold the ledger of the one schedule against what should be."""
        before = time.time()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        ended_us = round(before * SECOND), round(time.time() * SECOND)
        ran, rows = self.ran(), self.rows("job")
        assert max(ran.values()) == 1
        succeeded = {us // SECOND for us, _, status, *_ in rows if status == "succeeded"}
        assert succeeded == {us // SECOND for _, us, _ in ran}
        nominal = Within(Every(1, first * SECOND), first * SECOND, last * SECOND)
        check_coverage("job", nominal, rows, (first - 1) * SECOND, ended_us)


def test_a_start_in_1970_and_steps_of_the_clock_lose_double_and_park_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Faked(tmp_path, monkeypatch) as fleet:
        first, last = now(), now() + 500 * DAY
        fleet.add("job", first, last, overlap="allow")
        assert fleet.start("--once").wait(20) == 0
        ran = fleet.ran()
        fleet.set(100 - now())
        fleet.start()
        wait_for(lambda: "waiting for the clock to be set" in fleet.said())
        assert fleet.ran() == ran
        fleet.set(0)
        fleet.wait_for_runs()
        fleet.step(3600, 3600)
        fleet.step(0, -3600)
        fleet.step(400 * DAY, 400 * DAY)
        fleet.step(0, -400 * DAY)
        fleet.wait_for_runs()
        fleet.stop_and_account(first, last)
