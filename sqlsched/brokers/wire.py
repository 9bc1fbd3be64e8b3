"""What the scheduler and its warm process say to each other over their socket.

The scheduler sends requests: a header, then as many bytes of JSON as it says. Attached to the
first byte of a START are two descriptors, the write ends of the run's output and report pipes.
The warm process sends events of one fixed size.
"""

import struct

REQUEST = struct.Struct("!BII")
"""(START or the number of a signal to send, run, bytes that follow)"""
START = 0

EVENT = struct.Struct("!BIqq")
"""(kind, run, and two numbers that depend on the kind)"""
READY = 0
STARTED = 1
"""pid, and its start time as `processes.process_start_time` counts it"""
EXITED = 2
"""exit status, negative for a signal"""
REFUSED = 3
"""errno of the fork that failed: nothing was started"""

MAX_ERROR = 1000
"""Characters of a reported error line: with UTF-8's four bytes each, it fits any pipe."""
