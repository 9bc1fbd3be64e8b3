"""The last decision before a run starts, case by case."""

from dataclasses import replace
from typing import Any

import pytest

from sqlsched.instants import SECOND_US
from sqlsched.overlap import START, Candidate, Going, Verdict, may_start

NOW = 1_800_000_000 * SECOND_US
RUN = Candidate(
    attempt=1,
    manual=False,
    backfill=False,
    serial=False,
    present=True,
    paused=False,
    overlap=None,
    expires_us=None,
    runs_left=None,
)
HOLD = Verdict("hold", reason="overlap")
SKIP = Verdict("end", "skipped", "overlap", because_of=1)
NONE = Going()
ONE = Going(started=(1,))
ONE_AND_HELD = Going(started=(1,), held=(2, 3))
POLICIES = [None, "skip", "allow", "buffer-one", "buffer-all", "cancel-other"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_whose_schedule_is_at_rest_starts_under_every_policy(policy: str | None) -> None:
    assert may_start(RUN._replace(overlap=policy), NONE, NOW) == START
    assert may_start(RUN._replace(overlap=policy), Going(held=(2,)), NOW) == START


@pytest.mark.parametrize(
    ("policy", "going", "verdict"),
    [
        (None, ONE, SKIP),
        (None, ONE_AND_HELD, SKIP),
        ("skip", ONE, SKIP),
        ("skip", Going((1, 4)), SKIP),
        ("allow", ONE, START),
        ("allow", ONE_AND_HELD, START),
        ("buffer-one", ONE, HOLD),
        ("buffer-one", ONE_AND_HELD, SKIP),
        ("buffer-all", ONE, HOLD),
        ("buffer-all", ONE_AND_HELD, HOLD),
        ("cancel-other", ONE, replace(HOLD, cancels=(1,))),
        ("cancel-other", ONE_AND_HELD, replace(HOLD, cancels=(1, 2, 3))),
    ],
)
def test_while_another_run_is_going_the_policy_decides(
    policy: str | None, going: Going, verdict: Verdict
) -> None:
    assert may_start(RUN._replace(overlap=policy), going, NOW) == verdict


@pytest.mark.parametrize("policy", POLICIES)
def test_missed_firings_that_all_run_wait_for_one_another_whatever_the_policy(
    policy: str | None,
) -> None:
    serial = RUN._replace(serial=True, overlap=policy)
    assert may_start(serial, ONE_AND_HELD, NOW) == HOLD
    assert may_start(serial, NONE, NOW) == START


@pytest.mark.parametrize("changes", [{"manual": True}, {"attempt": 2}])
def test_manual_triggers_and_retries_pass_by_pause_bounds_and_overlap(
    changes: dict[str, Any],
) -> None:
    run = RUN._replace(paused=True, runs_left=0, overlap="skip", **changes)
    assert may_start(run, ONE_AND_HELD, NOW) == START


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reports_completion", [True, False])
def test_what_is_backfilled_passes_by_pause_and_bounds_and_runs_one_after_another(
    policy: str | None, reports_completion: bool
) -> None:
    run = RUN._replace(backfill=True, paused=True, runs_left=0, overlap=policy)
    assert may_start(run, NONE, NOW, reports_completion=reports_completion) == START
    assert may_start(run, Going(held=(2,)), NOW, reports_completion=reports_completion) == START
    assert may_start(run, ONE_AND_HELD, NOW, reports_completion=reports_completion) == HOLD
    retry = run._replace(attempt=2)
    assert may_start(retry, ONE_AND_HELD, NOW, reports_completion=reports_completion) == START


@pytest.mark.parametrize("changes", [{}, {"manual": True}, {"attempt": 2}, {"paused": True}])
def test_a_run_whose_schedule_is_gone_is_cancelled(changes: dict[str, Any]) -> None:
    run = RUN._replace(present=False, **changes)
    assert may_start(run, NONE, NOW) == Verdict("end", "cancelled", "removed")


def test_a_firing_of_a_paused_schedule_is_skipped() -> None:
    assert may_start(RUN._replace(paused=True), NONE, NOW) == Verdict("end", "skipped", "paused")


@pytest.mark.parametrize("left", [0, -3])
def test_beyond_max_runs_a_firing_is_skipped(left: int) -> None:
    assert may_start(RUN._replace(runs_left=left), NONE, NOW) == Verdict("end", "skipped", "bounds")
    assert may_start(RUN._replace(runs_left=1), NONE, NOW) == START


@pytest.mark.parametrize("changes", [{}, {"manual": True}, {"attempt": 2}])
def test_a_run_that_has_expired_is_missed_even_if_someone_asked_for_it(
    changes: dict[str, Any],
) -> None:
    run = RUN._replace(expires_us=NOW + 30 * SECOND_US, **changes)
    assert may_start(run, NONE, NOW + 30 * SECOND_US - 1) == START
    late = may_start(run, NONE, NOW + 30 * SECOND_US)
    assert late == Verdict("end", "missed", "expired")


def test_what_has_expired_while_paused_is_missed_and_what_is_gone_is_not() -> None:
    run = RUN._replace(expires_us=NOW + SECOND_US, paused=True)
    assert may_start(run, NONE, NOW + 10 * SECOND_US).reason == "expired"
    assert may_start(run._replace(present=False), NONE, NOW + 10 * SECOND_US).reason == "removed"


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        (None, START),
        ("allow", START),
        ("skip", Verdict("end", "skipped", "overlap-unsupported")),
        ("buffer-one", Verdict("end", "skipped", "overlap-unsupported")),
        ("buffer-all", Verdict("end", "skipped", "overlap-unsupported")),
        ("cancel-other", Verdict("end", "skipped", "overlap-unsupported")),
    ],
)
@pytest.mark.parametrize("going", [NONE, ONE_AND_HELD])
def test_a_queue_that_reports_no_end_refuses_every_policy_but_allow(
    policy: str | None, verdict: Verdict, going: Going
) -> None:
    run = RUN._replace(overlap=policy)
    assert may_start(run, going, NOW, reports_completion=False) == verdict
