"""Every bound of the machine, in one place, with its reason.

Rule: limits decide outcomes, so they are part of the replicated state in all but name: every node of a cluster must run with
the same values, or the replicas would part. This module knows numbers only.
"""

from __future__ import annotations

import dataclasses
import hashlib
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


TRAIL_BLOCK_RECORDS: Final = 256
"""Records that are packed and hashed together: large enough to cost little each, small enough to be read in one go."""

TRAIL_BLOCK_KEYS: Final = 1_024
"""A block is full with so many keys even if it has fewer records: keys are what can be large in it."""

FORCED_TOLD_MAX: Final = 1_000
"""Forced ends that a session is still told of; a client releases what it is told of, and so is told no more."""

DEADLOCK_STEPS_MAX: Final = 10_000
"""Tasks and waiters looked at for one circle. Beyond it the request waits, and its `wait_ms` is what ends it."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may use: everybody whose keys begin with `prefix`, or whose owner is `owner` (exactly one of the two is set).
    None: no bound. Whoever waited is granted without asking again, so that `holds` can be exceeded by what was waiting."""

    prefix: str | None = None
    owner: str | None = None
    sessions: int | None = None
    """Open sessions with this owner."""
    holds: int | None = None
    """Held keys: a hold of three keys under the prefix counts three times."""
    waiters: int | None = None
    """Waited-for keys, counted likewise."""

    @property
    def name(self) -> str:
        return self.prefix if self.prefix is not None else f"owner {self.owner}"


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
    """Held and closed keys plus the keys that waiters ask for, so that no grant can exceed it. Under 1 KiB each."""
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
    done_max: int = 100_000
    """Keys whose work is remembered as done. At the limit `complete` is refused: a result is never forgotten early."""
    done_bytes_max: int = 64 * 1024 * 1024
    """Results in UTF-8, over all of them."""
    checkpoints_max: int = 100_000
    """Keys that carry a checkpoint."""
    checkpoint_bytes_max: int = 64 * 1024 * 1024
    """Checkpoints in UTF-8, over all keys."""
    trail_blocks_max: int = 256
    """Blocks of 256 records: the last 65,000 things that happened, unless their keys are long."""
    trail_bytes_max: int = 32 * 1024 * 1024
    """All blocks together; the oldest are dropped."""
    quotas: tuple[Quota, ...] = ()
    """Checked in this order; the first that is exhausted is named in the refusal."""


LATER: Final[frozenset[str]] = frozenset()
"""Limits that came after the first release. A version that does not know one acts as if it had its default, so it is in the digest
only where it has another value: nodes of adjacent versions agree unless somebody has set it."""


def digest(limits: Limits) -> bytes:
    """Equal on nodes whose machines decide the same about the same log, whatever their versions; the others refuse each other."""
    defaults = dataclasses.asdict(Limits())
    values = dataclasses.asdict(limits)
    told = {
        name: value
        for name, value in values.items()
        if name not in LATER or value != defaults[name]
    }
    return hashlib.blake2b(repr(sorted(told.items())).encode(), digest_size=16).digest()
