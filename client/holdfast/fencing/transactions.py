"""Whether a connection is in a transaction, or its driver will begin one by itself: the one thing that a guard must insist on.

The rule: a floor is raised in the transaction of the write, or not at all. Without one the row of the key is unlocked at once:

    time 0  worker A raises the floor to 33, outside any transaction: nothing is locked
    time 1  worker B raises it to 34, and writes
    time 2  A writes; it asked, was let through, and overwrites B all the same

It reads what drivers show of themselves, and lets pass what it cannot judge.
"""

from __future__ import annotations

from typing import Final

__all__ = ["refuse_autocommit"]

_IN_TRANSACTION: Final = (2, 3)
"""libpq: PQTRANS_INTRANS and PQTRANS_INERROR (in a transaction that failed; the database refuses the next statement itself)."""


def refuse_autocommit(connection: object) -> None:
    """Raise `RuntimeError` if what is done on `connection` (of a DB-API driver) is committed statement by statement."""
    if is_autocommitting(connection):
        raise RuntimeError(
            "the connection commits every statement by itself, so a floor would not hold until the write: "
            "begin a transaction first"
        )


def is_autocommitting(connection: object) -> bool:
    """Whether each statement is its own transaction at this moment."""
    autocommit = getattr(connection, "autocommit", None)
    if hasattr(connection, "in_transaction"):  # sqlite3
        if connection.in_transaction:
            return False
        # False (Python 3.12): always within a transaction. Otherwise the driver begins one at the first INSERT, unless it was told
        # not to by `isolation_level=None`.
        return autocommit is not False and getattr(connection, "isolation_level", "") is None
    if autocommit is not True:
        return False
    status = getattr(getattr(connection, "info", None), "transaction_status", None)  # psycopg
    return status is None or int(status) not in _IN_TRANSACTION
