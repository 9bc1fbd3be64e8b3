"""The one system call that Python has no name for."""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    import ctypes

    _prctl = ctypes.CDLL(None).prctl
else:
    _prctl = None


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with SIGKILL when `parent` ends: prctl(2), Linux only."""
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call, which then waits for another one
        os.kill(os.getpid(), signal.SIGKILL)
