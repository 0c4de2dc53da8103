"""Every bound of the machine, in one place, with its reason.

Rule: limits decide outcomes, so they are part of the replicated state in all but name: every node of a cluster must run with
the same values, or the replicas would part. This module knows numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast import wire

ELAPSED_MS_MAX: Final = 500
"""The most that one entry may advance the cluster time: a leader that stalled, or a damaged stamp, ends no lease early."""

INCARNATION_BITS: Final = 40
"""Tokens are incarnation x 2^40 + counter: room for a million grants a second during twelve days, or 350 during a century."""

INCARNATION_TOKENS_MAX: Final = (1 << INCARNATION_BITS) - 1
"""The last counter of an incarnation. Never run over: a restore from an older backup continues in the next incarnation."""

KEY_CHARS_SURELY_SHORT: Final = wire.KEY_BYTES_MAX // 4
"""A key of at most so many characters cannot exceed its bytes in UTF-8 (four a character), so it need not be encoded."""

NODE_CHARS_MAX: Final = 64
"""Node names come from the configuration, which allows no more."""

ORIGINS_MAX: Final = 1_024
"""Nodes that ever spoke. A cluster has a handful; the bound only keeps a damaged log from growing the table."""

DEADLINES_SLACK: Final = 64
"""Stale deadlines are tolerated up to the number of live ones plus this, then swept: constant work a change on average."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine tolerates before it answers `limit_reached` (or `bad_request` for a single value out of range)."""

    ttl_ms_min: int = wire.TTL_MS_MIN
    """Below this a single slow disk or network moment would end the lease. Tests go lower."""
    ttl_ms_max: int = wire.TTL_MS_MAX
    """A dead holder blocks its keys for so long at worst."""
    wait_ms_max: int = wire.WAIT_MS_MAX
    """Longer than most proxies keep a silent request; whoever wants to wait on asks again under the same request id."""
    keys_per_acquire_max: int = wire.KEYS_PER_ACQUIRE_MAX
    """Bounds the work of one operation."""
    sessions_max: int = 200_000
    """About 0.5 KiB each."""
    keys_held_max: int = 1_000_000
    """Held keys plus the keys that waiters ask for, so that no grant can exceed it. Under 1 KiB each."""
    waiters_max: int = 100_000
    """Over all keys. Each is a caller that somewhere keeps a connection open."""
    waiters_per_key_max: int = 10_000
    """A longer queue than this is not a queue but an outage: say so at once."""
    request_ids_per_session_max: int = 10_000
    """Remembered outcomes; clients that count up and report `settled` keep a handful."""
    previous_max: int = 200_000
    """Keys whose last ended hold is remembered; the rest lies at or below `previous_horizon`."""
    endings_max: int = 200_000
    """Ended holds by token, so that a repeated release is answered as the first one was."""
    ended_sessions_max: int = 200_000
    """Ended session ids, so that a late request learns `session_expired` and the id is not opened again."""
