"""The bytes of a journal segment: pure functions from entries to bytes and back.

A segment is a header and then groups. A group is what one `sync` writes: it cuts the log after
`keep_to` and then appends its entries. Nothing is ever overwritten: to delete entries is to write a
group with a lower `keep_to`. The log is what comes out when the groups are replayed in order.

    segment   magic, format, directory id, number, first group, first index, chain, crc
    group     magic, flags, count, sequence, first index, keep_to, commit index, body length, chain, crc
    record    crc, length, index, term, payload                                     (all little-endian)

Every CRC32C continues the one before it: the crc of a record is seeded with that of the record (or
the group header) in front of it, and a group header names, as `chain`, the crc that ended the group
before. So a record is valid only in the place, in the group, in the history it was written for. A header
is also checked by itself (seeded with the directory's id), because after damage the chain is broken
and one question remains: does a later group exist?

That question decides what damage means. A group is written only after the one before it was synced:

    time 0   group 7 is written and synced; its entries are acknowledged
    time 1   group 8 is written (perhaps in part, perhaps its end before its beginning)
    time 2   the power fails before the sync of group 8 returns: nothing of it was acknowledged

So a group that does not check, with no later group behind it, may be a torn tail and be dropped whole;
with a later group behind it, it had been synced, and damage to it is damage to acknowledged entries.
It is torn only if something of it is missing: the space was zeros before, so a write that was cut off leaves
zeros at its end or its beginning, and one of which a sector never arrived leaves that sector zero. A group that is there in
full and does not check was on disk once, and has changed.

This module does not know files, nor what to do about damage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

Entry: TypeAlias = "tuple[bytes, int, int]"
"""(command, index, term): the shape that pysyncobj wants."""

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"HFJOURNL"
GROUP_MAGIC = b"\xf5HFGROUP"  # not UTF-8: no key and no JSON contains it by accident
GROUPS_OFFSET = 64  # a segment's first group begins here

_SEGMENT = struct.Struct("<8sI16sQQQI")
_GROUP = struct.Struct("<8sIIQQQQQI")
_RECORD = struct.Struct("<IQQ")  # what the record's crc covers, with the payload behind it
_CRC = struct.Struct("<I")
_RECORD_WITH_CRC = struct.Struct("<IIQQ")
GROUP_HEADER_BYTES = _GROUP.size + _CRC.size
RECORD_HEADER_BYTES = _RECORD_WITH_CRC.size

SECTOR_BYTES = 512
"""What a drive writes whole or not at all; larger ones are made of these."""

_FLAG_RESET = 1


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Where a segment stands in the history of its journal."""

    number: int
    """1, 2, 3, ...; also in the file's name."""
    first_group: int
    first_index: int
    """The index that followed the last entry when the segment was begun."""
    chain: int
    """The crc that ended the group before `first_group`."""


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """What one sync did to the log, besides the entries it added."""

    sequence: int
    first_index: int
    """The log begins here (older entries were dropped); 0: the log is empty and may begin anywhere."""
    keep_to: int
    """Entries above this index are deleted; the group's own entries follow at keep_to + 1."""
    commit_index: int
    """A hint: the highest index known to be committed when the group was written."""
    reset: bool = False
    """The whole log before this group is deleted, and keep_to need not touch its end."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not a group where a group was expected."""

    offset: int
    what: str
    may_be_torn: bool
    """False: these bytes were written whole, but do not belong here."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment's bytes say. `last` is where its last group begins; `end`, `next_group`, `chain`: where the next would go."""

    groups: list[tuple[GroupHeader, list[Entry]]]
    last: int
    end: int
    next_group: int
    chain: int
    damage: Damage | None
    """None: nothing but zeros behind `end`."""


class Unreadable(ValueError):
    """A segment header that this program cannot read; str() says what it is."""


def encode_segment_header(header: SegmentHeader, directory_id: bytes) -> bytes:
    """The first GROUPS_OFFSET bytes of a segment."""
    fields = _SEGMENT.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        directory_id,
        header.number,
        header.first_group,
        header.first_index,
        header.chain,
    )
    return (fields + _CRC.pack(crc32c(fields))).ljust(GROUPS_OFFSET, b"\0")


def decode_segment_header(data: bytes, directory_id: bytes) -> SegmentHeader:
    """Raises Unreadable."""
    if len(data) < GROUPS_OFFSET:
        raise Unreadable(f"only {len(data)} bytes, the header alone has {GROUPS_OFFSET}")
    magic, version, owner, number, first_group, first_index, chain = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise Unreadable("not a holdfast journal (foreign magic)")
    if version != FORMAT_VERSION:
        raise Unreadable(
            f"format version {version}, this program reads {FORMAT_VERSION}; if a newer version of "
            "holdfast wrote it, start that one"
        )
    if _CRC.unpack_from(data, _SEGMENT.size)[0] != crc32c(data[: _SEGMENT.size]):
        raise Unreadable("the header's checksum is wrong")
    if owner != directory_id:
        raise Unreadable(f"it was written in another data directory ({owner.hex()})")
    return SegmentHeader(number, first_group, first_index, chain)


def encode_group(
    header: GroupHeader, entries: Sequence[Entry], chain: int, directory_id: bytes
) -> tuple[bytes, int]:
    """The bytes of a group, and the crc that the next group has to name as its chain."""
    body_bytes = len(entries) * RECORD_HEADER_BYTES
    for command, _, _ in entries:
        body_bytes += len(command)
    fields = _GROUP.pack(
        GROUP_MAGIC,
        _FLAG_RESET if header.reset else 0,
        len(entries),
        header.sequence,
        header.first_index,
        header.keep_to,
        header.commit_index,
        body_bytes,
        chain,
    )
    crc = crc32c(fields, crc32c(directory_id))
    parts = [fields, _CRC.pack(crc)]
    for command, index, term in entries:
        record = _RECORD.pack(len(command), index, term) + command
        crc = crc32c(record, crc)
        parts.append(_CRC.pack(crc))
        parts.append(record)
    return b"".join(parts), crc


def decode_segment(data: bytes, header: SegmentHeader, directory_id: bytes) -> Segment:
    """Read groups until something is not the next group. Total: whatever `data` is."""
    groups: list[tuple[GroupHeader, list[Entry]]] = []
    last = offset = GROUPS_OFFSET
    sequence, chain = header.first_group, header.chain
    damage = None
    while True:
        found = _decode_group(data, offset, sequence, chain, directory_id)
        if isinstance(found, Damage):
            damage = found
            break
        last = offset
        group, entries, offset, chain = found
        groups.append((group, entries))
        sequence += 1
    if data.count(0, offset) == len(data) - offset:
        damage = None  # space that was reserved and never used
    return Segment(groups, last, offset, sequence, chain, damage)


def is_missing_something(data: bytes, offset: int, directory_id: bytes) -> bool:
    """Whether the group at `offset`, which does not check, was not written whole."""
    fields = _header_fields(data, offset, directory_id)
    body_bytes = 0 if fields is None else fields[7]
    written = len(data.rstrip(b"\0"))
    if data[offset] == 0 or written < offset + GROUP_HEADER_BYTES + body_bytes:
        return True  # its beginning, or its end
    starts = [offset, *range(offset - offset % SECTOR_BYTES + SECTOR_BYTES, written, SECTOR_BYTES)]
    ends = [*starts[1:], written]
    return any(
        data.count(0, start, end) == end - start for start, end in zip(starts, ends, strict=True)
    )


def later_group(data: bytes, offset: int, sequence: int, directory_id: bytes) -> int | None:
    """The offset of a whole group header numbered above `sequence`, anywhere behind `offset`."""
    while (offset := data.find(GROUP_MAGIC, offset)) >= 0:
        fields = _header_fields(data, offset, directory_id)
        if fields is not None and fields[3] > sequence:
            return offset
        offset += 1
    return None


def _header_fields(data: bytes, offset: int, directory_id: bytes) -> tuple[int, ...] | None:
    """A group header that is whole by itself, with its crc as the last field; or None."""
    end = offset + _GROUP.size
    if len(data) < end + _CRC.size or not data.startswith(GROUP_MAGIC, offset):
        return None
    (crc,) = _CRC.unpack_from(data, end)
    if crc != crc32c(data[offset:end], crc32c(directory_id)):
        return None
    return (*_GROUP.unpack_from(data, offset), crc)


def _decode_group(
    data: bytes, offset: int, sequence: int, chain: int, directory_id: bytes
) -> tuple[GroupHeader, list[Entry], int, int] | Damage:
    """The group at `offset` with the offset and the chain behind it, or what is wrong with it."""
    fields = _header_fields(data, offset, directory_id)
    if fields is None:
        return Damage(offset, "not a group header, or its checksum is wrong", may_be_torn=True)
    _, flags, count, number, first_index, keep_to, commit_index, body_bytes, before, crc = fields
    if number != sequence or before != chain or flags > _FLAG_RESET:
        what = f"group {number} is not group {sequence}, or not of this history"
        return Damage(offset, what, may_be_torn=False)
    header = GroupHeader(number, first_index, keep_to, commit_index, bool(flags & _FLAG_RESET))
    position = offset + GROUP_HEADER_BYTES
    end = position + body_bytes
    if end > len(data):
        return Damage(offset, f"group {number} is longer than the file", may_be_torn=True)
    view = memoryview(data)
    entries: list[Entry] = []
    for index in range(keep_to + 1, keep_to + 1 + count):
        payload = position + RECORD_HEADER_BYTES
        if payload > end:
            return Damage(position, f"entry {index} is cut short", may_be_torn=True)
        expected, length, at, term = _RECORD_WITH_CRC.unpack_from(data, position)
        after = payload + length
        if after > end:
            return Damage(position, f"entry {index} has a wrong length", may_be_torn=True)
        crc = crc32c(view[position + _CRC.size : after], crc)
        if crc != expected:
            return Damage(position, f"the checksum of entry {index} is wrong", may_be_torn=True)
        if at != index:
            return Damage(position, f"entry {at} stands where {index} belongs", may_be_torn=False)
        entries.append((data[payload:after], index, term))
        position = after
    if position != end:
        return Damage(position, f"group {number} is longer than its entries", may_be_torn=False)
    return header, entries, end, crc
