"""What happened, in order: bounded, replicated, and chained by hashes, so that a copy of it can be checked without the cluster.

Rule: records are only appended, and numbered 1, 2, 3, ... (`revision`). Full blocks are packed to bytes and hashed over the
block before them, so that no record can be changed, left out or put in without every later hash being another one. The oldest
blocks are dropped at a bound, and whoever asks for them is told so. Wall time stands in a record for people; nothing compares it.

    hash of a block = BLAKE2b-256(hash of the block before || its first revision, 8 bytes big-endian || its records in msgpack)

History reads it, a watcher follows it. This module does not know sessions or locks.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from .limits import TRAIL_BLOCK_KEYS, TRAIL_BLOCK_RECORDS
from .packing import pack, unpack

Kind = Literal["granted", "ended", "resolved", "forgotten"]

GENESIS: Final = bytes(32)
"""What the first block follows."""

Raw = tuple[Any, ...]


class Record(NamedTuple):
    """One thing that happened. `waited_ms` and `held_ms` in cluster time; what does not apply to a kind is None.

    `granted`: a hold of `keys` began. `ended`: it ended, as `ended` says. `resolved`: an operator opened what was closed under
    this token. `forgotten`: the result of a completed hold is remembered no longer.
    """

    revision: int
    kind: Kind
    cluster_ms: int
    wall_ms: int
    token: int
    keys: tuple[str, ...]
    owner: str | None = None
    context: str | None = None
    mode: str | None = None
    limit: int | None = None
    waited_ms: int | None = None
    held_ms: int | None = None
    ended: str | None = None
    operator: str | None = None
    reason: str | None = None


class Block(NamedTuple):
    """Records `first` to `first + length - 1`, packed, and the hash that chains them to the block before."""

    first: int
    length: int
    packed: bytes
    hash: bytes


class NoLongerKept(LookupError):
    """The records that follow this revision have been dropped: read the present state anew, and go on from now."""


class Trail:
    __slots__ = (
        "before",
        "blocks",
        "blocks_max",
        "bytes_max",
        "open",
        "open_first",
        "open_keys",
        "size",
    )

    def __init__(self, blocks_max: int, bytes_max: int) -> None:
        self.blocks_max = blocks_max
        self.bytes_max = bytes_max
        self.before = GENESIS  # the hash that the oldest kept block follows
        self.blocks: list[Block] = []
        self.size = 0
        self.open: list[Raw] = []
        self.open_first = 1
        self.open_keys = 0

    @property
    def last_revision(self) -> int:
        return self.open_first + len(self.open) - 1

    @property
    def first_revision(self) -> int:
        """The oldest that is kept; one more than the last if none is."""
        return self.blocks[0].first if self.blocks else self.open_first

    @property
    def head(self) -> bytes:
        """The hash of the last full block."""
        return self.blocks[-1].hash if self.blocks else self.before

    def append(self, record: Raw, keys: int) -> None:
        """`record`: the fields of a `Record` after its revision, up to the last that applies; `keys`: how many it names."""
        records = self.open
        records.append(record)
        self.open_keys = named = self.open_keys + keys
        if len(records) >= TRAIL_BLOCK_RECORDS or named >= TRAIL_BLOCK_KEYS:
            self._seal()

    def _seal(self) -> None:
        # Copied, because it is kept: what msgspec returns has room to grow behind it, up to half of its length.
        packed = bytes(memoryview(pack(self.open)))
        block = Block(
            self.open_first, len(self.open), packed, chain(self.head, self.open_first, packed)
        )
        self.blocks.append(block)
        self.size += len(packed)
        self.open_first += len(self.open)
        self.open, self.open_keys = [], 0
        drop = 0
        while drop < len(self.blocks) and (
            len(self.blocks) - drop > self.blocks_max or self.size > self.bytes_max
        ):
            self.size -= len(self.blocks[drop].packed)
            self.before = self.blocks[drop].hash
            drop += 1
        del self.blocks[:drop]

    def begin_again(self, first: int) -> None:
        """The next record has revision `first`, and nothing before it is kept: whoever follows is told so. The chain goes on from
        what there was."""
        if self.open:
            self._seal()
        self.before = self.head
        self.blocks, self.size = [], 0
        self.open_first = first

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, after: int, limit: int) -> list[Record]:
        """Up to `limit` records that follow revision `after`, in order. Raises `NoLongerKept`."""
        if after + 1 < self.first_revision:
            raise NoLongerKept(f"the oldest record that is kept is {self.first_revision}")
        found: list[Record] = []
        for block in self.blocks[self._index_of(after + 1) :]:
            found += records_of(block)[max(0, after + 1 - block.first) :]
            if len(found) >= limit:
                return found[:limit]
        start = max(0, after + 1 - self.open_first)
        open_records = enumerate(
            self.open[start : start + limit - len(found)], self.open_first + start
        )
        return found + [_record(revision, raw) for revision, raw in open_records]

    def of_key(self, key: str, after: int) -> Iterator[Record]:
        """The records that name `key` and follow revision `after`, in order. Blocks whose bytes lack the key are passed over."""
        needle = pack(key)
        for block in self.blocks[self._index_of(after + 1) :]:
            if needle in block.packed:
                yield from (
                    each for each in records_of(block) if each.revision > after and key in each.keys
                )
        for revision, raw in enumerate(self.open, self.open_first):
            if revision > after and key in raw[4]:
                yield _record(revision, raw)

    def _index_of(self, revision: int) -> int:
        """Of the block that has this revision; the number of blocks if it lies in the open one."""
        if revision >= self.open_first:
            return len(self.blocks)
        return max(0, bisect_right(self.blocks, revision, key=lambda block: block.first) - 1)


def chain(before: bytes, first: int, packed: bytes) -> bytes:
    return hashlib.blake2b(before + first.to_bytes(8, "big") + packed, digest_size=32).digest()


def records_of(block: Block) -> list[Record]:
    return [
        _record(revision, raw) for revision, raw in enumerate(unpack(block.packed), block.first)
    ]


def _record(revision: int, raw: Any) -> Record:
    kind, cluster_ms, wall_ms, token, keys, *rest = raw
    return Record(revision, kind, cluster_ms, wall_ms, token, tuple(keys), *rest)
