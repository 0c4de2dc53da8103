"""The two ways in which the workers of the demo write to their database: the right one, and the one that everybody writes first.

The rule: both have the same two steps, with a call to the payment provider between them. `begin` looks whether the order is already
done; `write` does it. What differs is what a holder can do that stalls between the two, and comes back when it is no longer the
holder. `NaiveBooks` is here to be beaten; it is not part of the ledger, and nobody should copy it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)

from holdfast_coordinator.demo.messages import CUSTOMER_BYTES_MAX, NAME_BYTES_MAX
from holdfast_ledger import CAPTURE, REFUND, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from holdfast_coordinator.demo.messages import Message

LEDGER_ACTIONS: Final = {"collect": CAPTURE, "refund": REFUND}
"""What the messages call an action, and what the ledger calls it."""


class Books(Protocol):
    """Both methods block, and may be called from any thread. They raise what the ledger raises."""

    def begin(self, message: Message, fence: int) -> bool:
        """Prepare the order; True if it is already done, and nothing is left to do."""

    def write(self, message: Message, fence: int) -> None:
        """Record that the money has moved."""

    def times_recorded(self) -> dict[tuple[str, str], int]:
        """How often each order (payment, action) stands in the books."""

    def close(self) -> None:
        """Close the database."""


class FencedBooks:
    """The ledger: the floor is raised before the outside call, and the write is checked in its own transaction."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)

    def begin(self, message: Message, fence: int) -> bool:
        # From here on no older holder can write, so what is read next stays true until this holder's own write.
        self.ledger.raise_floor(message.lock_key, fence)
        return self.ledger.payment(message.payment, LEDGER_ACTIONS[message.action]) is not None

    def write(self, message: Message, fence: int) -> None:
        record = self.ledger.capture if message.action == "collect" else self.ledger.refund
        record(
            message.lock_key,
            payment=message.payment,
            customer=message.customer,
            amount=message.amount,
            currency=message.currency,
            fence=fence,
        )

    def times_recorded(self) -> dict[tuple[str, str], int]:
        names = {recorded: action for action, recorded in LEDGER_ACTIONS.items()}
        return {(payment, names[recorded]): 1 for payment, recorded in self.ledger.orders()}

    def close(self) -> None:
        self.ledger.close()


_naive_metadata = MetaData()
_captures = Table(
    "captures",
    _naive_metadata,
    Column("id", Integer, primary_key=True),  # and nothing unique about the payment
    Column("payment", String(NAME_BYTES_MAX), nullable=False, index=True),
    Column("action", String(16), nullable=False),
    Column("customer", String(CUSTOMER_BYTES_MAX), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
)


class NaiveBooks:
    """A status that is read before the row is inserted, under the protection of a lock alone.

    time 0  worker A: granted; status: not captured; stalls before its insert
    time 1  A's lease ends; worker B: granted; status: not captured; inserts
    time 2  A wakes up and inserts: the customer has paid twice
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")

        @event.listens_for(self._engine, "connect")
        def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA busy_timeout = 10000")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.close()

    def create(self) -> None:
        """Create the table: once, before the workers start."""
        _naive_metadata.create_all(self._engine)

    def begin(self, message: Message, fence: int) -> bool:
        statement = select(_captures.c.id).where(
            _captures.c.payment == message.payment, _captures.c.action == message.action
        )
        with self._engine.connect() as connection:
            return connection.execute(statement).first() is not None

    def write(self, message: Message, fence: int) -> None:
        values = {
            name: getattr(message, name)
            for name in ("payment", "action", "customer", "amount", "currency")
        }
        with self._engine.begin() as connection:
            connection.execute(insert(_captures).values(**values))

    def times_recorded(self) -> dict[tuple[str, str], int]:
        columns = (_captures.c.payment, _captures.c.action)
        with self._engine.connect() as connection:
            rows = connection.execute(select(*columns, func.count()).group_by(*columns)).all()
        return {(payment, action): int(count) for payment, action, count in rows}

    def close(self) -> None:
        self._engine.dispose()
