"""systemd's notification protocol (sd_notify(3)), as far as a service speaks it: datagrams."""

import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from math import inf

from sqlsched.supervisor import NOBODY, Supervisor

_STATUS_S = 60.0
"""How often to say how it is, to a supervisor that has no watchdog."""
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def from_environment(environment: MutableMapping[str, str]) -> Supervisor:
    """Whoever the environment names. The variables are taken out: tasks are not the service."""
    address, watchdog_us, watchdog_pid = (environment.pop(name, "") for name in _VARIABLES)
    if not address.startswith(("/", "@")):
        return NOBODY
    if watchdog_pid not in {"", str(os.getpid())} or not watchdog_us.isdecimal():
        watchdog_us = ""
    return Systemd(address, int(watchdog_us) / 1e6 if watchdog_us else None)


class Systemd(Supervisor):
    """Tells systemd, at a socket's path (`@` for one without a file), that the service is up,
    that it lives, twice in each `watchdog_s` seconds, and that it stops."""

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_s = watchdog_s / 2 if watchdog_s else _STATUS_S
        self._sent_s = -inf

    def ready(self, text: str) -> None:
        self._send(f"READY=1\nSTATUS={text}")

    def alive(self, elapsed_s: float, describe: Callable[[], str]) -> None:
        if elapsed_s - self._sent_s >= self._every_s:
            self._sent_s = elapsed_s
            self._send(f"WATCHDOG=1\nSTATUS={describe()}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, message: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(errors="replace"), self._address)
