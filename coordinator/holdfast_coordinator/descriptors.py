"""How many files and sockets this process may have, and how many of them are for callers.

Rule: callers never use up what the node itself needs: its journal, its peers, the next connection of an operator.
"""

from __future__ import annotations

import dataclasses
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast_coordinator.config import HttpLimits

RESERVED: Final = 256
"""For the journal, snapshots, up to nine peers with a connection each way, what is connecting, and the interpreter."""


FEW: Final = 2_000
"""Connections: less than two clients at their own bound. Whoever starts a node with so few should hear of it."""


def raise_limit() -> int:
    """Let this process have as many descriptors as it is allowed to ask for; so many. (The usual limit of 1,024 is that of programs
    which use `select`; the one that an administrator sets is the hard one.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS: the hard limit may say "infinite" and not be taken
            return soft
        soft = hard
    return soft


def within(limits: HttpLimits, descriptors: int) -> HttpLimits:
    """The same limits, with no more connections than there are descriptors for. Where there are fewer than wanted, one address gets
    no more than half of them."""
    room = max(1, descriptors - RESERVED)
    if descriptors == resource.RLIM_INFINITY or limits.connections_max <= room:
        return limits
    per_peer = min(limits.connections_per_peer_max, max(1, room // 2))
    return dataclasses.replace(limits, connections_max=room, connections_per_peer_max=per_peer)
