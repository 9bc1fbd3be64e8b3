"""The schedulers that serve a database side by side, as each of them sees the others."""

from sqlsched.storage.connection import Database
from sqlsched.storage.errors import DamagedDatabaseError
from sqlsched.storage.turn import Owner


def others(database: Database, owner: int | None) -> list[Owner]:
    """Every scheduler that has not ended in order, but this one."""
    rows = database.execute(
        """SELECT owner, token, pid, boot_id, started_us, seen_us FROM owners
           WHERE stopped_us IS NULL AND owner IS NOT ?""",
        (owner,),
    )
    return [Owner(*row) for row in rows]


def others_beside(database: Database, owner: int, token: str) -> list[Owner]:
    """The same, for one that is entered itself; DamagedDatabaseError if it is not any more.

    Nobody would take over what it claimed from then on.
    """
    entered = others(database, None)
    if not any((other.owner, other.token) == (owner, token) for other in entered):
        database.seal.forget()
        raise DamagedDatabaseError(
            f"{database.path} does not know this scheduler any more: a backup was restored into "
            "it, or the -owner file was removed and another process has taken over"
        )
    return [other for other in entered if other.owner != owner]
