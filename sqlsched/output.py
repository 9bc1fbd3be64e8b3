"""What a run prints, kept in bounded memory: its head and its tail."""

from collections import deque

KEEP_BYTES = 64 * 1024
HEAD_BYTES = KEEP_BYTES // 2


class OutputBuffer:
    """Takes any number of bytes, keeps the first and the last 32 KiB of them.

    `total_bytes` counts everything written, so a reader that polls knows what it has missed.
    """

    def __init__(self) -> None:
        self.total_bytes = 0
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def write(self, data: bytes) -> None:
        """Add what was printed."""
        self.total_bytes += len(data)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._append(data)

    def _append(self, data: bytes) -> None:
        self._tail.append(data[-HEAD_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes - len(self._tail[0]) >= HEAD_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        if len(self._tail) > 64:  # many small writes: one joined piece is cheaper to keep
            self._tail = deque([self.tail])
            self._tail_bytes = len(self._tail[0])

    @property
    def head(self) -> bytes:
        """The first bytes, up to 32 KiB."""
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """The last bytes after the head, up to 32 KiB."""
        return b"".join(self._tail)[-HEAD_BYTES:]

    def text(self) -> str:
        """Everything kept, as text; a line in the middle says how much is missing."""
        if not self.total_bytes:
            return ""
        return render(self.head, self.tail, self.total_bytes)


def render(head: bytes, tail: bytes, total_bytes: int) -> str:
    """Join head and tail for a reader; bytes that are not UTF-8 become U+FFFD."""
    omitted = total_bytes - len(head) - len(tail)
    if omitted <= 0:
        return (head + tail).decode(errors="replace")
    middle = f"\n[… {omitted} bytes left out …]\n"
    return head.decode(errors="replace") + middle + tail.decode(errors="replace")
