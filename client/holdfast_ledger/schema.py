"""The tables of the ledger, and what one row of `payments` means.

The rules that the database itself keeps: one row per payment and action; amounts are positive integers of the minor unit (cents);
an entry belongs to a payment and to an account of its own currency. `Ledger.check_balanced` verifies what a constraint cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
)

from holdfast.fencing.sql import fences_table

AMOUNT_MINOR_MAX: Final = 10**12
"""Ten thousand million of a currency with cents: above every real payment, and nine million of them still sum within 64 bits."""

NAME_BYTES_MAX: Final = 256
"""Of a payment or customer id: longer than any real one, short enough to index."""

CURRENCY_CHARACTERS: Final = 3
"""ISO 4217: EUR, USD, JPY."""

CAPTURE: Final = "capture"
REFUND: Final = "refund"

REVENUE: Final = "revenue"
CUSTOMERS: Final = "customers/"
"""The two sides of every payment: a capture moves its amount from `customers/<id>` to `revenue`, a refund back."""

metadata: Final = MetaData()

fences: Final[Table] = fences_table(metadata)

payments: Final[Table] = Table(
    "payments",
    metadata,
    Column("payment", String(NAME_BYTES_MAX), primary_key=True),
    Column(
        "action", String(16), CheckConstraint("action IN ('capture', 'refund')"), primary_key=True
    ),
    Column("customer", String(NAME_BYTES_MAX), nullable=False),
    Column("amount", BigInteger, CheckConstraint("amount > 0"), nullable=False),
    Column("currency", String(CURRENCY_CHARACTERS), nullable=False),
    Column("fence", BigInteger, nullable=False),
)

accounts: Final[Table] = Table(
    "accounts",
    metadata,
    Column("account", String(NAME_BYTES_MAX + len(CUSTOMERS)), primary_key=True),
    Column("currency", String(CURRENCY_CHARACTERS), primary_key=True),
)

entries: Final[Table] = Table(
    "entries",
    metadata,
    # SQLite counts an INTEGER PRIMARY KEY by itself, and only one spelled exactly so.
    Column("entry", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("payment", String(NAME_BYTES_MAX), nullable=False),
    Column("action", String(16), nullable=False),
    Column("account", String(NAME_BYTES_MAX + len(CUSTOMERS)), nullable=False),
    Column("currency", String(CURRENCY_CHARACTERS), nullable=False),
    Column("amount", BigInteger, CheckConstraint("amount <> 0"), nullable=False),
    ForeignKeyConstraint(["payment", "action"], ["payments.payment", "payments.action"]),
    ForeignKeyConstraint(["account", "currency"], ["accounts.account", "accounts.currency"]),
)


@dataclass(frozen=True)
class Payment:
    """One captured or refunded payment as the ledger has it. `amount` is in minor units; `fence` is that of its writer."""

    payment: str
    action: str
    customer: str
    amount: int
    currency: str
    fence: int


@dataclass(frozen=True)
class Books:
    """What `check_balanced` counted: payments by action, entries, and the turnover of each currency in minor units."""

    captures: int
    refunds: int
    entries: int
    turnover: dict[str, int]
