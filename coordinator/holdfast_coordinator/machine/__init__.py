"""The replicated lock table: pure and total. `Machine.apply(entry)` answers outcomes; `codec` makes entries of bytes.

Read `machine.py` first (the order within an entry), then `table.py` (who is granted), `rules.py` (what each operation does) and
`requests.py` (repeats). `operations.py` and `outcomes.py` are the vocabulary. Nothing here knows a clock, a socket or a disk.
"""

from .codec import decode_entry, decode_operation, encode_entry, encode_operation
from .invariants import InvariantViolation, check_invariants
from .limits import Limits
from .machine import Counts, Machine
from .operations import (
    Acquire,
    Barrier,
    Cancel,
    CloseSession,
    Entry,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Release,
    RenewSession,
    Withdraw,
)
from .outcomes import (
    Cancelled,
    Closed,
    Detached,
    Ended,
    Granted,
    Holder,
    LockView,
    Outcome,
    Passed,
    Previous,
    Queued,
    Refused,
    Released,
    Renewed,
    SessionOpened,
    WaiterView,
    Withdrawn,
)
from .snapshot import SnapshotUnreadable

__all__ = [
    "Acquire",
    "Barrier",
    "Cancel",
    "Cancelled",
    "CloseSession",
    "Closed",
    "Counts",
    "Detached",
    "Ended",
    "Entry",
    "Granted",
    "Holder",
    "InvariantViolation",
    "Limits",
    "LockView",
    "Machine",
    "Malformed",
    "OpenSession",
    "Operation",
    "Origin",
    "Outcome",
    "Passed",
    "Previous",
    "Queued",
    "Refused",
    "Release",
    "Released",
    "RenewSession",
    "Renewed",
    "SessionOpened",
    "SnapshotUnreadable",
    "WaiterView",
    "Withdraw",
    "Withdrawn",
    "check_invariants",
    "decode_entry",
    "decode_operation",
    "encode_entry",
    "encode_operation",
]
