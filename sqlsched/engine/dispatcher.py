"""Runs from their start to their end: timeouts, cancellation, drain, and what is to be recorded."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable

from sqlsched import cancellation
from sqlsched.abc import Broker, RunOutcome
from sqlsched.clock import Clock
from sqlsched.engine.flights import Flight, Report
from sqlsched.engine.intake import Intake
from sqlsched.exceptions import SendTaskError
from sqlsched.instants import SECOND_US, format_us
from sqlsched.observer import Observer
from sqlsched.planner import MAX_REFUSAL_DELAY_S
from sqlsched.storage.schedules import DAMAGED
from sqlsched.storage.turn import Finished, Printed, Started

log = logging.getLogger("sqlsched")

FLUSH_SECONDS = 1.0
"""How often the output of a run that goes on is put on record, for `logs --follow`."""


class Dispatcher:
    """Hands started runs to the broker and collects their ends."""

    def __init__(
        self,
        broker: Broker,
        intake: Intake,
        clock: Clock,
        concurrency: int,
        on_end: Callable[[], None],
        *,
        resend: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._broker = broker
        self._intake = intake
        self._clock = clock
        self.concurrency = concurrency
        """How many runs at once."""
        self._on_end = on_end
        self._resend = resend
        self._flights: dict[int, Flight] = {}
        self._report = Report()
        self._refusals: dict[int, int] = {}
        """How often the broker has refused a run."""
        self._flushed = clock.monotonic()

    @property
    def room(self) -> int:
        """How many more runs may start."""
        return self.concurrency - len(self._flights)

    @property
    def reports_completion(self) -> bool:
        """Whether the broker runs tasks itself."""
        return self._broker.reports_completion

    @property
    def going(self) -> int:
        """How many runs are on their way."""
        return len(self._flights)

    @property
    def ended(self) -> bool:
        """Whether a run has ended that is not yet on record."""
        return bool(self._report.finished or self._report.refused)

    def launch(self, runs: Iterable[Started]) -> None:
        """Start runs that the ledger says are started."""
        tells = log.isEnabledFor(logging.INFO)
        event_loop = asyncio.get_running_loop()  # asked for once: it costs a system call
        for run in runs:
            try:
                flight = Flight(run, run.message(), self._clock.monotonic())
            except DAMAGED as error:
                self._refuse_damaged(run, error)
                continue
            if tells:
                log.info(
                    "run %d of %s started: %s, for %s",
                    *(run.run_id, run.schedule_id, run.task_name, format_us(run.scheduled_us)),
                    extra={"run_id": str(run.run_id), "schedule_id": run.schedule_id},
                )
            self._flights[run.run_id] = flight
            flight.task = event_loop.create_task(self._fly(flight), name=f"run {run.run_id}")

    def _refuse_damaged(self, run: Started, error: Exception) -> None:
        """Somebody changed the schedule by other means, and there is no message to make of it."""
        problem = f"its schedule's row is damaged: {error}"
        log.error("run %d of %s failed: %s", run.run_id, run.schedule_id, problem)
        now_us = self._clock.now_us()
        self._report.finished.append(Finished(run.run_id, "failed", now_us, None, problem))
        self._on_end()

    def stop(self, run_id: int, reason: str) -> None:
        """Stop a run, if it is still going; it ends as cancelled."""
        if flight := self._flights.get(run_id):
            self._stop(flight, "cancelled", reason)

    def stop_all(self, reason: str, *, at_once: bool = False) -> None:
        """Stop every run; `at_once` without the time to tidy up that a broker gives otherwise."""
        for flight in self._flights.values():
            if flight.stopped_as is None:
                self._stop(flight, "cancelled", reason)
            else:
                self._cancel(flight)
        if at_once:
            # Two cancellations in one round of the event loop arrive as one.
            asyncio.get_running_loop().call_later(_ROUND_SECONDS, self._press)

    def give_up(self) -> None:
        """Wait no longer for runs that do not end though they were stopped."""
        for flight in list(self._flights.values()):
            log.error("run %d does not end, and is left behind", flight.run.run_id)
            self._land(flight, self._end(flight, *(flight.stopped_as or ("cancelled", "shutdown"))))

    def _press(self) -> None:
        for flight in self._flights.values():
            self._cancel(flight)

    async def join(self) -> None:
        """Wait for every run to end."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def dirty(self) -> bool:
        """Whether there is news of runs that go on, and it is time to record it."""
        if self._clock.monotonic() - self._flushed < FLUSH_SECONDS:
            return False
        return any(self._has_news(flight) for flight in self._flights.values())

    def take_report(self) -> Report:
        """What is to be recorded now; the caller gives it back if that fails."""
        report, self._report = self._report, Report()
        if self._clock.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flushed = self._clock.monotonic()
            for flight in self._flights.values():
                self._collect(flight, report)
        return report

    def give_back(self, report: Report) -> None:
        """Keep a report that could not be recorded."""
        self._report = report + self._report

    async def _fly(self, flight: Flight) -> None:
        flight.begun = True
        with self._clock.busy():
            try:
                end = await self._send(flight)
            except asyncio.CancelledError as error:
                if not cancellation.is_asked_for():
                    end = flight.end or self._end_failed(flight, error)
                elif flight.end is None and self._goes_again(flight):
                    self._put_back(flight)
                    return
                else:
                    end = flight.end or self._end_stopped(flight)
            except SendTaskError as error:
                self._refuse(flight, error)
                return
            except Exception as error:
                end = self._end_failed(flight, error)
            self._land(flight, end)

    async def _send(self, flight: Flight) -> Finished:
        if flight.stopped_as:
            raise asyncio.CancelledError
        if flight.run.due_us > self._clock.now_us():
            await self._clock.reach(flight.run.due_us)
            flight.started = self._clock.monotonic()
        not_sent = await self._intake.before_send(flight.run, flight.message)
        if not_sent is not None:
            return self._end(flight, "cancelled", not_sent.reason, not_sent.text)
        if flight.run.timeout_s is not None and self.reports_completion:
            # In a context of its own: a task that waits on the clock is asleep, its timer is not
            # part of it. A queue's workers keep the time themselves.
            flight.timer = asyncio.create_task(
                self._expire(flight, flight.run.timeout_s), context=contextvars.Context()
            )
        flight.sent = True
        self._observer.sent(flight.run.schedule_id, self._clock.now_us() - flight.run.due_us)
        end = self._ended(flight, await self._broker.kick(flight.message))
        if flight.stopped_as:  # a task may swallow its cancellation; it was stopped anyway
            end = self._end(flight, *flight.stopped_as, code=end.exit_code)
        flight.end = end
        if flight.timer is not None:
            flight.timer.cancel()
        await self._intake.after_send(flight.run, flight.message)
        return end

    def _goes_again(self, flight: Flight) -> bool:
        """Whether a run that a shutdown stopped had not begun, as far as it must be known."""
        if (flight.stopped_as or ("cancelled", "shutdown")) != ("cancelled", "shutdown"):
            return False
        return not flight.sent or (self._resend and not self.reports_completion)

    def _put_back(self, flight: Flight) -> None:
        """Whoever serves the ledger next starts it."""
        self._leave(flight)
        self._report.refused.append((flight.run.run_id, self._clock.now_us()))
        self._on_end()

    def _end_stopped(self, flight: Flight) -> Finished:
        # Only we cancel a flight, and `_stop` has said why.
        status, reason = flight.stopped_as or ("cancelled", "shutdown")
        if not self.reports_completion and reason == "shutdown":
            status = "abandoned"  # nobody knows whether the queue has it
        return self._end(flight, status, reason)

    def _end_failed(self, flight: Flight, error: BaseException) -> Finished:
        log.error("run %d: the broker failed", flight.run.run_id, exc_info=error)
        status, reason = flight.stopped_as or ("failed", None)
        return self._end(flight, status, reason, f"{type(error).__name__}: {error}")

    def _ended(self, flight: Flight, outcome: RunOutcome | None) -> Finished:
        if outcome is not None and not isinstance(outcome, RunOutcome):
            text = f"the broker returned a {type(outcome).__name__}, and no RunOutcome"
            return self._end(flight, "failed", error=text)
        if outcome is None:
            if not self.reports_completion:
                return self._end(flight, "sent")
            return self._end(flight, "failed", error=_NO_OUTCOME)
        buffer = flight.message.output
        if outcome.output and buffer is not None and not buffer.total_bytes:
            buffer.write(outcome.output.encode())
        return self._end(flight, outcome.status, error=outcome.error, code=outcome.exit_code)

    def _end(
        self,
        flight: Flight,
        status: str,
        reason: str | None = None,
        error: str | None = None,
        code: int | None = None,
    ) -> Finished:
        if status == "timed_out":
            error = f"timed out after {flight.run.timeout_s} s"
        return Finished(flight.run.run_id, status, self._clock.now_us(), code, error, reason)

    def _refuse(self, flight: Flight, error: SendTaskError) -> None:
        """The broker did not take it: no attempt was made, and it is offered again."""
        run_id = flight.run.run_id
        count = self._refusals.get(run_id, 0)
        self._refusals[run_id] = count + 1
        delay_s = min(2**count, MAX_REFUSAL_DELAY_S)
        log.warning("run %d was refused, and is tried again in %d s: %s", run_id, delay_s, error)
        self._leave(flight)
        self._report.refused.append((run_id, self._clock.now_us() + delay_s * SECOND_US))
        self._on_end()

    def _leave(self, flight: Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        del self._flights[flight.run.run_id]

    def _land(self, flight: Flight, end: Finished) -> None:
        if end.run_id not in self._flights:
            return  # given up before
        self._leave(flight)
        self._refusals.pop(end.run_id, None)
        self._report.finished.append(end)
        self._observer.ended(flight.run.schedule_id, end.status, end.finished_us)
        self._collect_output(flight, self._report)
        level = logging.INFO if end.status in _GOOD else logging.WARNING
        if log.isEnabledFor(level):
            seconds = self._clock.monotonic() - flight.started
            log.log(
                level,
                "run %d of %s %s after %.3f s%s",
                *(end.run_id, flight.run.schedule_id, end.status, seconds),
                f": {end.error or end.reason}" if end.error or end.reason else "",
                extra={"run_id": str(end.run_id), "schedule_id": flight.run.schedule_id},
            )
        self._on_end()

    async def _expire(self, flight: Flight, seconds: int) -> None:
        await self._clock.sleep(seconds)
        self._stop(flight, "timed_out", None)

    def _stop(self, flight: Flight, status: str, reason: str | None) -> None:
        if flight.stopped_as is None:
            flight.stopped_as = (status, reason)
            self._cancel(flight)

    @staticmethod
    def _cancel(flight: Flight) -> None:
        if flight.task is not None and flight.begun:
            flight.task.cancel()

    def _has_news(self, flight: Flight) -> bool:
        buffer = flight.message.output
        printed = buffer is not None and buffer.total_bytes > flight.saved_bytes
        return printed or (
            not flight.saved_process and self._broker.process_of(flight.message) is not None
        )

    def _collect(self, flight: Flight, report: Report) -> None:
        self._collect_output(flight, report)
        if not flight.saved_process and (process := self._broker.process_of(flight.message)):
            flight.saved_process = True
            report.processes.append((flight.run.run_id, *process))

    def _collect_output(self, flight: Flight, report: Report) -> None:
        buffer = flight.message.output
        if buffer is not None and buffer.total_bytes > flight.saved_bytes:
            flight.saved_bytes = buffer.total_bytes
            report.printed.append(
                Printed(flight.run.run_id, buffer.head, buffer.tail, buffer.total_bytes)
            )


_GOOD = frozenset({"succeeded", "sent"})
_ROUND_SECONDS = 0.01
_NO_OUTCOME = "the broker said nothing of the task's end"
