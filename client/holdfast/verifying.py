"""Checking an exported trail without the cluster: that no record was changed, left out or put in.

    hash of a block = BLAKE2b-256(hash of the block before || its first revision, 8 bytes big-endian || its records in msgpack)

Rule: every line is accounted for, and what no hash covers is said to be uncovered (the records of the last, open block, and the
name of the cluster). Whoever forges a whole chain forges a consistent one: compare the `head` with one that you noted elsewhere,
or with the `before` of a later file. It needs no client and no server, and holds one block at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from holdfast.errors import HoldfastError

FORMAT: Final = 1
MEMBERS: Final = (
    "kind",
    "cluster_ms",
    "wall_ms",
    "token",
    "keys",
    "owner",
    "context",
    "mode",
    "limit",
    "waited_ms",
    "held_ms",
    "ended",
    "operator",
    "reason",
)
"""What is hashed of a record, in this order, up to the last that is there."""
MEMBERS_MIN: Final = 5
"""Those that every record has."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that is whole. `before`: the hash that its first block follows (the `head` of the file before it); `head`: that of
    its last block. The last `uncovered` records are in no block yet."""

    cluster: str
    first_revision: int
    last_revision: int
    records: int
    blocks: int
    uncovered: int
    before: str
    head: str


class Tampered(HoldfastError):
    """The file is not what the cluster wrote. Believe nothing from `block` on (the first revision of the first bad block; None:
    the file itself is not whole). `line`: where, counted from 1. Export it again, and compare the two."""

    def __init__(self, reason: str, *, line: int, block: int | None = None) -> None:
        where = f"line {line}" if block is None else f"line {line}, block {block}"
        super().__init__(f"{where}: {reason}")
        self.reason: str = reason
        self.line: int = line
        self.block: int | None = block


def verify(lines: Iterable[str | bytes]) -> Verified:
    """Check an export, line by line. Raises `Tampered`."""
    reader = _Reader(lines)
    head = reader.take("trail")
    if head.get("format") != FORMAT:
        raise reader.bad(f"format {head.get('format')!r} is not known to this version")
    first = revision = _integer(reader, head, "first_revision")
    before: str | None = None
    began_after = ""
    blocks = 0
    while True:
        block = reader.next()
        kind = block.get("line")
        if kind not in ("block", "open"):
            raise reader.bad("a block was expected")
        reader.block = _integer(reader, block, "first")
        if reader.block != revision:
            raise reader.bad(f"revision {revision} was expected: records are missing")
        if before is None:
            began_after = before = _hash(reader, block, "before")
        if block.get("before") != before:
            raise reader.bad("it does not follow the block before it")
        count = _integer(reader, block, "count")
        packed = [_packed(reader, revision + offset) for offset in range(count)]
        revision += count
        if kind == "open":
            break
        before = _chained(before, reader.block, packed)
        if block.get("hash") != before:
            raise reader.bad("its records do not have this hash")
        blocks += 1
    reader.block = None
    if head.get("head") != before or head.get("last_revision") != revision - 1:
        raise reader.bad("it does not end where its first line says")
    end = reader.take("end")
    if end.get("records") != revision - first:
        raise reader.bad("the number of records is another one")
    reader.nothing_else()
    return Verified(
        cluster=str(head.get("cluster")),
        first_revision=first,
        last_revision=revision - 1,
        records=revision - first,
        blocks=blocks,
        uncovered=count,
        before=began_after,
        head=before,
    )


class _Reader:
    """The lines of a file, one at a time, and where we are in it."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        self._lines: Iterator[str | bytes] = iter(lines)
        self._number = 0
        self.block: int | None = None

    def next(self) -> dict[str, Any]:
        line = next(self._lines, None)
        self._number += 1
        if line is None:
            raise self.bad("the file was cut off")
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self.bad("this is not JSON") from error
        if not isinstance(found, dict):
            raise self.bad("this is not an object")
        return found

    def take(self, kind: str) -> dict[str, Any]:
        found = self.next()
        if found.get("line") != kind:
            raise self.bad(f"a line {kind!r} was expected")
        return found

    def nothing_else(self) -> None:
        if next(self._lines, None) is not None:
            self._number += 1
            raise self.bad("there is something after the end")

    def bad(self, reason: str) -> Tampered:
        return Tampered(reason, line=self._number, block=self.block)


def _packed(reader: _Reader, revision: int) -> list[Any]:
    """The hashed members of the next line, which must be this record."""
    record = reader.next()
    if record.get("revision") != revision:
        raise reader.bad(f"record {revision} was expected")
    if unknown := record.keys() - {"revision", *MEMBERS}:
        raise reader.bad(f"{min(unknown)!r} is in no record, and no hash covers it")
    members = [record.get(name) for name in MEMBERS]
    while len(members) > MEMBERS_MIN and members[-1] is None:
        members.pop()
    return members


def _chained(before: str, first: int, records: list[list[Any]]) -> str:
    packed: bytes = msgpack.packb(records, unicode_errors="surrogatepass")
    data = bytes.fromhex(before) + first.to_bytes(8, "big") + packed
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _integer(reader: _Reader, line: dict[str, Any], name: str) -> int:
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise reader.bad(f"{name} is not a number of records")
    return value


def _hash(reader: _Reader, line: dict[str, Any], name: str) -> str:
    value = line.get(name)
    try:
        if isinstance(value, str) and len(bytes.fromhex(value)) == 32:
            return value
    except ValueError:
        pass  # said below, with what is not even text
    raise reader.bad(f"{name} is not a hash")
