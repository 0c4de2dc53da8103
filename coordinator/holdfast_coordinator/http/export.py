"""The trail as a file: JSON Lines that say what happened, with the hashes by which the file can be checked without the cluster.

    {"line":"trail", "format":1, "cluster":..., "first_revision":..., "last_revision":..., "head":HASH}
    {"line":"block", "first":1, "count":256, "before":HASH, "hash":HASH}
    {"revision":1, "kind":"granted", ...}          `count` such lines
    ...                                            more blocks
    {"line":"open", "first":..., "count":..., "before":HASH}
    {"revision":..., ...}                          the block that is not full: no hash covers it yet
    {"line":"end", "records":...}                  a file without it was cut off

    hash = BLAKE2b-256(before || first, 8 bytes big-endian || msgpack of the list of the block's records)

Rule: pure. A record in msgpack is the list of its members in the order of `RecordView`, without the revision, up to the last
that is there. So a record's line and its hashed bytes follow from each other, and the check needs no second copy of the data. A
file that begins after another one continues its chain: its first `before` is the other one's last `hash`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast_coordinator.http.history_views import record_view
from holdfast_coordinator.machine.trail import records_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast_coordinator.machine.trail import Block, Record, Trail

FORMAT: Final = 1

_encode_lines = msgspec.json.Encoder().encode_lines


class TrailLine(msgspec.Struct, tag="trail", tag_field="line", frozen=True):
    """The first line. `head`: the hash of the last full block, in hexadecimal."""

    format: int
    cluster: str
    first_revision: int
    last_revision: int
    head: str


class BlockLine(msgspec.Struct, tag="block", tag_field="line", frozen=True):
    first: int
    count: int
    before: str
    hash: str


class OpenLine(msgspec.Struct, tag="open", tag_field="line", frozen=True):
    first: int
    count: int
    before: str


class EndLine(msgspec.Struct, tag="end", tag_field="line", frozen=True):
    records: int


def export(trail: Trail, cluster: str, after: int) -> Iterator[bytes]:
    """A block in each piece, from the block that has revision `after` + 1. It is the trail of this moment: what is taken from it
    now never changes, so that blocks which are dropped while somebody reads are sent all the same."""
    # Of the block that has the revision; the number of blocks if that lies in the one that is not full.
    first = max(0, bisect_right(trail.blocks, after + 1, key=lambda block: block.first) - 1)
    if after + 1 >= trail.open_first:
        first = len(trail.blocks)
    blocks = trail.blocks[first:]
    before = trail.blocks[first - 1].hash if first > 0 else trail.before
    opened = trail.read(trail.open_first - 1, max(1, len(trail.open)))
    first_revision = blocks[0].first if blocks else trail.open_first
    head = TrailLine(FORMAT, cluster, first_revision, trail.last_revision, trail.head.hex())
    opening = OpenLine(trail.open_first, len(opened), trail.head.hex())
    return _pieces(head, blocks, before, opening, opened)


def _pieces(
    head: TrailLine, blocks: Sequence[Block], before: bytes, opening: OpenLine, opened: list[Record]
) -> Iterator[bytes]:
    yield _encode_lines([head])
    count = len(opened)
    for block in blocks:
        records = records_of(block)
        line = BlockLine(block.first, len(records), before.hex(), block.hash.hex())
        yield _encode_lines([line, *map(record_view, records)])
        before = block.hash
        count += len(records)
    yield _encode_lines([opening, *map(record_view, opened), EndLine(count)])
