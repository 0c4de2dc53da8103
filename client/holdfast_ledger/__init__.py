"""The payment ledger: a double-entry ledger that refuses stale writers and second captures in the transaction that would post them.

    from holdfast_ledger import Duplicate, Ledger
    from holdfast.fencing import Stale

    with Ledger(Path("ledger.db")) as ledger:                  # or Ledger("postgresql+psycopg://...")
        ledger.raise_floor(key, grant.fence)                   # before any outside call
        ledger.capture(key, payment="p-1", customer="1234", amount=1999, currency="EUR", fence=grant.fence)

Needs the `ledger` (or `postgres`) extra. It knows neither the cluster nor the client: a fence is a number.
"""

from __future__ import annotations

from holdfast.fencing.idempotency import idempotency_key
from holdfast_ledger.errors import CommitUnknown, Duplicate, NotCaptured, RefundRefused, Unbalanced
from holdfast_ledger.ledger import AsyncLedger, Ledger
from holdfast_ledger.schema import CAPTURE, REFUND, Books, Payment

__all__ = [
    "CAPTURE",
    "REFUND",
    "AsyncLedger",
    "Books",
    "CommitUnknown",
    "Duplicate",
    "Ledger",
    "NotCaptured",
    "Payment",
    "RefundRefused",
    "Unbalanced",
    "idempotency_key",
]
