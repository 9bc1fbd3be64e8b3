"""The one system call that Python has no name for: prctl(2). Elsewhere these do nothing."""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

if sys.platform == "linux":
    import ctypes

    _prctl = ctypes.CDLL(None).prctl
else:
    _prctl = None


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with SIGKILL when `parent` ends."""
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call, which then waits for another one
        os.kill(os.getpid(), signal.SIGKILL)


def wake_with_parents_end() -> None:
    """Have the kernel continue this process when its parent ends, should it be halted then."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def adopt_orphans() -> bool:
    """Become the parent of what is left by descendants that end; whether that is possible."""
    return _prctl is not None and not _prctl(_PR_SET_CHILD_SUBREAPER, 1)
