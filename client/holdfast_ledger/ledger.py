"""The payment ledger: every payment once, every book balanced, whoever writes and however late.

The rule: a movement of money is ONE transaction that (1) moves the fence of each of its keys up to its own, or is refused as
`Stale`; (2) inserts the payment under its unique name, or is refused as `Duplicate`; (3) posts entries that sum to zero. Stale
comes first: a holder that is no longer the holder learns that, and not how the work of others went.

It does not know the cluster, its clocks, or who holds what. The fences tell it enough. It keeps no time of day.
"""

from __future__ import annotations

import asyncio
import unicodedata
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import and_, func, insert, select

from holdfast.fencing import checked_fence
from holdfast.fencing.sql import SqlGuard, insert_into
from holdfast_ledger.database import LOCK_WAIT_MS, Database
from holdfast_ledger.errors import Duplicate, NotCaptured, RefundRefused, Unbalanced
from holdfast_ledger.schema import (
    AMOUNT_MINOR_MAX,
    CAPTURE,
    CURRENCY_CHARACTERS,
    CUSTOMERS,
    NAME_BYTES_MAX,
    REFUND,
    REVENUE,
    Books,
    Payment,
    accounts,
    entries,
    fences,
    metadata,
    payments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from holdfast.fencing import Stale

_CREATE_LOCK: Final = 0x686F6C64
"""The advisory lock under which PostgreSQL creates the tables ("hold"), since CREATE TABLE IF NOT EXISTS races with itself."""


class Ledger:
    """A double-entry payment ledger in one database. Safe to share between threads; every method blocks for one transaction."""

    def __init__(
        self,
        target: str | Path,
        *,
        lock_wait_ms: int = LOCK_WAIT_MS,
        on_refused: Callable[[Stale], object] | None = None,
    ) -> None:
        """Open the ledger at `target`, a path (SQLite) or a SQLAlchemy URL, and create its tables if they are missing.

        `lock_wait_ms`: how long a transaction waits for another. `on_refused` is called with every `Stale` (the place to count
        `holdfast.fencing.REFUSED_TOTAL`), in the thread that is refused.
        """
        self._database = Database(target, lock_wait_ms=lock_wait_ms)
        self._guard = SqlGuard(fences, on_refused=on_refused)
        try:
            self._database.write(_create_tables)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- writing ---------------------------------------------------------------------------------------------------------

    def raise_floor(self, key: str | Sequence[str], fence: int) -> None:
        """Close the door on every older holder of `key` (or keys): the first thing that the holder of a lock does.

        From here on no older holder can write, so that what this one sees (in the ledger, at a provider) stays true until its
        own write. Raises `Stale`, or `CommitUnknown`.
        """
        self._database.write(lambda connection: self._guard.raise_floor(connection, key, fence))

    def capture(
        self,
        key: str | Sequence[str],
        *,
        payment: str,
        customer: str,
        amount: int,
        currency: str,
        fence: int,
    ) -> Payment:
        """Collect `amount` (minor units) of `customer`, once per `payment`. `key` is what the lock with `fence` is on.

        Raises `Stale`, then `Duplicate`; neither changed anything. Raises `CommitUnknown` if nobody can say, and `TypeError` or
        `ValueError` for what is not a payment.
        """
        row = _checked(Payment(payment, CAPTURE, customer, amount, currency, fence))
        return self._record(key, row)

    def refund(
        self,
        key: str | Sequence[str],
        *,
        payment: str,
        customer: str,
        amount: int,
        currency: str,
        fence: int,
    ) -> Payment:
        """Give back `amount` of a captured `payment`, once: a payment is refunded in one piece, all of it or a part.

        Raises `Stale`, then `Duplicate`, then `NotCaptured` or `RefundRefused`; none of them changed anything.
        Raises `CommitUnknown` if nobody can say.
        """
        row = _checked(Payment(payment, REFUND, customer, amount, currency, fence))
        return self._record(key, row)

    def _record(self, key: str | Sequence[str], row: Payment) -> Payment:
        def work(connection: Connection) -> Payment:
            self._guard.raise_floor(connection, key, row.fence)
            _insert_once(connection, row)
            if row.action == REFUND:
                _check_refund(connection, row)
            _post(connection, row)
            return row

        return self._database.write(work)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def payment(self, payment: str, action: str = CAPTURE) -> Payment | None:
        """Return what is recorded of `payment`, or None."""
        return self._database.read(lambda connection: _recorded(connection, payment, action))

    def orders(self) -> frozenset[tuple[str, str]]:
        """Return every `(payment, action)` that is recorded: for a report on a small ledger, since it reads them all."""
        statement = select(payments.c.payment, payments.c.action)
        rows = self._database.read(lambda connection: connection.execute(statement).all())
        return frozenset((payment, action) for payment, action in rows)

    def floor(self, key: str) -> int | None:
        """Return the highest fence that the ledger has seen for `key`, or None."""
        return self._database.read(lambda connection: self._guard.highest(connection, key))

    def balances(self) -> dict[tuple[str, str], int]:
        """Return the balance of every account as `{(account, currency): minor units}`. They sum to zero in each currency."""
        statement = (
            select(entries.c.account, entries.c.currency, func.sum(entries.c.amount))
            .group_by(entries.c.account, entries.c.currency)
            .order_by(entries.c.account, entries.c.currency)
        )
        rows = self._database.read(lambda connection: connection.execute(statement).all())
        return {(account, currency): int(total) for account, currency, total in rows}

    def check_balanced(self) -> Books:
        """Verify the books and return their totals. Raises `Unbalanced`, naming the first payments that do not add up.

        Each payment has exactly two entries, of its own amount and currency, one the opposite of the other.
        """
        return self._database.read(_checked_books)


class AsyncLedger:
    """The same ledger for asyncio: each call runs in a thread, so that the loop that renews the lock never waits for a disk.

    Cancelling a call abandons its answer, not the transaction, which a thread is already in. Its outcome is then unknown until
    the call is repeated (`Duplicate` without differences: it took effect).
    """

    def __init__(self, ledger: Ledger) -> None:
        """`ledger` stays the caller's, who also closes it."""
        self._ledger = ledger

    async def raise_floor(self, key: str | Sequence[str], fence: int) -> None:
        """See `Ledger.raise_floor`."""
        await asyncio.to_thread(self._ledger.raise_floor, key, fence)

    async def capture(
        self,
        key: str | Sequence[str],
        *,
        payment: str,
        customer: str,
        amount: int,
        currency: str,
        fence: int,
    ) -> Payment:
        """See `Ledger.capture`."""
        return await asyncio.to_thread(
            self._ledger.capture,
            key,
            payment=payment,
            customer=customer,
            amount=amount,
            currency=currency,
            fence=fence,
        )

    async def refund(
        self,
        key: str | Sequence[str],
        *,
        payment: str,
        customer: str,
        amount: int,
        currency: str,
        fence: int,
    ) -> Payment:
        """See `Ledger.refund`."""
        return await asyncio.to_thread(
            self._ledger.refund,
            key,
            payment=payment,
            customer=customer,
            amount=amount,
            currency=currency,
            fence=fence,
        )


def _create_tables(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CREATE_LOCK)))
    metadata.create_all(connection)


def _checked(row: Payment) -> Payment:
    """Return `row` if the ledger can hold it; else raise `TypeError` or `ValueError` that names the field."""
    checked_fence(row.fence)
    for field, value in (("payment", row.payment), ("customer", row.customer)):
        if not isinstance(value, str):
            raise TypeError(f"{field}: a string is needed, not {value!r}")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError(f"{field}: not valid Unicode text") from None
        if not 1 <= length <= NAME_BYTES_MAX:
            raise ValueError(f"{field}: 1 to {NAME_BYTES_MAX} bytes are needed, not {length}")
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise ValueError(f"{field}: contains a control character")
    if isinstance(row.amount, bool) or not isinstance(row.amount, int):
        raise TypeError(f"amount: an integer of the minor unit is needed, not {row.amount!r}")
    if not 1 <= row.amount <= AMOUNT_MINOR_MAX:
        raise ValueError(f"amount: between 1 and {AMOUNT_MINOR_MAX} is needed, not {row.amount}")
    currency = row.currency
    if not isinstance(currency, str):
        raise TypeError(f"currency: a string is needed, not {currency!r}")
    if not (
        len(currency) == CURRENCY_CHARACTERS
        and currency.isascii()
        and currency.isalpha()
        and currency.isupper()
    ):
        raise ValueError(f"currency: three capital letters are needed, not {currency!r}")
    return row


def _checked_books(connection: Connection) -> Books:
    joined = and_(entries.c.payment == payments.c.payment, entries.c.action == payments.c.action)
    sound = and_(
        func.count(entries.c.entry) == 2,
        func.sum(entries.c.amount) == 0,
        func.max(entries.c.amount) == payments.c.amount,
        func.min(entries.c.currency) == payments.c.currency,
        func.max(entries.c.currency) == payments.c.currency,
    )
    columns = (payments.c.payment, payments.c.action, payments.c.amount, payments.c.currency)
    unsound = (
        select(payments.c.payment, payments.c.action)
        .select_from(payments.outerjoin(entries, joined))
        .group_by(*columns)
        .having(func.coalesce(~sound, True))
        .order_by(payments.c.payment, payments.c.action)
        .limit(5)
    )
    by_action = select(payments.c.action, func.count()).group_by(payments.c.action)
    turnover = select(payments.c.currency, func.sum(payments.c.amount)).group_by(
        payments.c.currency
    )
    wrong = [f"{action} {payment}" for payment, action in connection.execute(unsound)]
    if wrong:
        raise Unbalanced(f"the entries do not add up: {', '.join(wrong)}")
    counts = {action: int(count) for action, count in connection.execute(by_action)}
    number = int(connection.execute(select(func.count()).select_from(entries)).scalar_one())
    totals = {currency: int(total) for currency, total in connection.execute(turnover)}
    captures, refunds = counts.get(CAPTURE, 0), counts.get(REFUND, 0)
    if number != 2 * (captures + refunds):
        raise Unbalanced(f"{number} entries for {captures + refunds} payments")
    return Books(captures, refunds, number, totals)


def _recorded(connection: Connection, payment: str, action: str) -> Payment | None:
    statement = select(payments).where(payments.c.payment == payment, payments.c.action == action)
    row = connection.execute(statement).first()
    if row is None:
        return None
    return Payment(row.payment, row.action, row.customer, row.amount, row.currency, row.fence)


def _insert_once(connection: Connection, row: Payment) -> None:
    """The unique name decides, not a look beforehand: two writers may look at the same moment."""
    statement = (
        insert_into(connection, payments)
        .values(
            payment=row.payment,
            action=row.action,
            customer=row.customer,
            amount=row.amount,
            currency=row.currency,
            fence=row.fence,
        )
        .on_conflict_do_nothing()
        .returning(payments.c.payment)
    )
    if connection.execute(statement).first() is not None:
        return
    earlier = _recorded(connection, row.payment, row.action)
    assert earlier is not None, "a payment conflicted with a row that is not there"  # noqa: S101 - rows are never deleted
    fields = ("customer", "amount", "currency")
    raise Duplicate(
        earlier, tuple(name for name in fields if getattr(earlier, name) != getattr(row, name))
    )


def _check_refund(connection: Connection, row: Payment) -> None:
    """A captured payment never changes, so reading it needs no lock."""
    captured = _recorded(connection, row.payment, CAPTURE)
    if captured is None:
        raise NotCaptured("nothing was captured under the payment to refund")
    if captured.customer != row.customer:
        raise RefundRefused("the payment to refund was captured from another customer")
    if captured.currency != row.currency:
        raise RefundRefused(
            f"the payment to refund was captured in {captured.currency}, not in {row.currency}"
        )
    if captured.amount < row.amount:
        raise RefundRefused(
            f"{row.amount} cannot be refunded of the {captured.amount} that were captured"
        )


def _post(connection: Connection, row: Payment) -> None:
    """Move the amount between the two accounts. They are opened in one order everywhere, so that no two writers can deadlock."""
    sign = 1 if row.action == CAPTURE else -1
    sides = {CUSTOMERS + row.customer: -sign * row.amount, REVENUE: sign * row.amount}
    for account in sorted(sides):
        opening = insert_into(connection, accounts).values(account=account, currency=row.currency)
        connection.execute(opening.on_conflict_do_nothing())
    connection.execute(
        insert(entries),
        [
            {
                "payment": row.payment,
                "action": row.action,
                "account": account,
                "currency": row.currency,
                "amount": amount,
            }
            for account, amount in sorted(sides.items())
        ],
    )
