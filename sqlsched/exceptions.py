"""What can go wrong, as one tree:

SqlschedError
├── InvalidScheduleError (ValueError)     a value that no schedule can have
├── ScheduleNotFoundError (LookupError)   no schedule or run has this id
├── DuplicateScheduleError                the id is taken by other content
├── ScheduledTaskCancelledError           raised by a source's `pre_send` to cancel one firing
├── BrokerError                           a broker is missing, wrong or in trouble
│   └── SendTaskError                     the queue refused a message
└── StorageError                          the database cannot be used

Every message is one line that a person can act on: it names the value and says what is accepted.
"""


class SqlschedError(Exception):
    """Root of every error that sqlsched raises on purpose."""


class InvalidScheduleError(SqlschedError, ValueError):
    """A value that no schedule can have; the message names it."""


class ScheduleNotFoundError(SqlschedError, LookupError):
    """No schedule or run has this id, or more than one begins with it."""


class DuplicateScheduleError(SqlschedError):
    """A schedule with this id and other content exists already."""


class ScheduledTaskCancelledError(SqlschedError):
    """Raised by a source's `pre_send`: this firing is recorded as cancelled and not sent."""


class BrokerError(SqlschedError):
    """A broker is missing, of the wrong kind, or cannot do its work."""


class SendTaskError(BrokerError):
    """The queue refused a message; it was certainly not sent."""


class StorageError(SqlschedError):
    """The database cannot be used; the message names its path."""
