"""What the nodes of a cluster have said of their versions, and up to which format level all of them can go.

    time 0   every node runs the old version; the log is at level 1
    time 1   n1, n2 and n3 are restarted with the new one, one after the other; each says that it knows levels up to 2
    time 2   the leader is connected with all of them, and each has said so: its next entry is of level 2

Rules:
* A node speaks as soon as it is connected, and what it said counts for that connection alone: it may come back as another version.
* The level is raised only when EVERY node of the configuration has said, on its present connection with the leader, that it knows
  the next one. A node that is away holds the level down, because nobody knows with which version it comes back.
* A level never falls. A node that meets a higher one than it knows stops, with a sentence.

A version that is older than these words takes them for a message that it does not know: it counts it, logs it once, and goes on. So
its silence means level 1.

Not known here: connections, entries, what a level brings (`machine/levels.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgpack

from .machine.levels import LEVEL_MAX, Levels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MESSAGE_VERSION: Final = 2
"""Of the words of this module; forwarded operations are 1 (`node.py`)."""

VERSION_CHARS_MAX: Final = 64
"""Of a version as text: it is shown to people."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a node said of itself. `level`: of the log, as far as it had applied it."""

    lowest: int
    highest: int
    level: int
    version: str


class Unreadable(ValueError):
    """Not the words of this module."""


class PeerLevels:
    """Of one node, about all of `members` (this one included)."""

    def __init__(self, node: str, members: Iterable[str], own: Levels, version: str) -> None:
        self.own = own
        self._node = node
        self._others = tuple(sorted(set(members) - {node}))
        self._version = version
        self._said: dict[str, Said] = {}

    def words(self, level: int) -> bytes:
        """What to tell a peer; `level`: of the log, as far as it is applied here."""
        own = self.own
        packed: bytes = msgpack.packb(
            [MESSAGE_VERSION, own.lowest, own.highest, level, self._version]
        )
        return packed

    def connected(self, peer: str) -> None:
        """A new connection: it has not said anything yet."""
        self._said.pop(peer, None)

    def heard(self, peer: str, payload: bytes) -> Said:
        """Take in what a peer says. Raises `Unreadable`."""
        self._said[peer] = said = decode(payload)
        return said

    def said_by(self, peer: str) -> Said | None:
        return self._said.get(peer)

    def common(self, connected: Collection[str]) -> int:
        """The highest level that every node has said it knows. 0: somebody is away, or has not said anything."""
        highest = self.own.highest
        for peer in self._others:
            said = self._said.get(peer)
            if said is None or peer not in connected:
                return 0
            highest = min(highest, said.highest)
        return highest


def is_words(payload: bytes) -> bool:
    """Whether a message of a peer is for this module, at a glance."""
    return payload[1:2] == bytes((MESSAGE_VERSION,))


def decode(payload: bytes) -> Said:
    """Raises `Unreadable`. What follows the fields that are known here is of a later version, and ignored."""
    try:
        kind, lowest, highest, level, version, *_ = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException):
        raise Unreadable("not an array of levels") from None
    for number in (lowest, highest, level):
        if type(number) is not int or not 1 <= number <= LEVEL_MAX:
            raise Unreadable("not a level")
    if kind != MESSAGE_VERSION or type(version) is not str or len(version) > VERSION_CHARS_MAX:
        raise Unreadable("not the words of a node")
    return Said(lowest, highest, level, version)
