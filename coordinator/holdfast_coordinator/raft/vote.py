"""The term and the vote: the two facts that a node must never forget, in one small file.

The rule: a state that was acted upon is in BOTH slots, so damage to one slot can never bring back an
older vote. A write goes: slot 0, sync, slot 1, sync; only then may anybody act upon it.

    time 0   (were there one synced copy) slot 0 holds term 6; the vote of term 7 goes to slot 1, synced
    time 1   the candidate counts upon that vote
    time 2   slot 1 decays; at the next start slot 0 is the only readable one: the node votes in term 7 again

With two synced copies, whatever single slot is unreadable at a start, the other is at least as new as
the last state acted upon: it was torn before the write had returned (nobody acted), or it decayed
(its twin is equal). Both unreadable: the node must not guess, and does not start.

It does not know elections, nor the log.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, cast

from crc32c import crc32c

from holdfast_coordinator.raft.disk import Directory, File, replace_file
from holdfast_coordinator.raft.errors import JournalError

if TYPE_CHECKING:
    from typing import Self

VOTE_NAME = "vote"
FORMAT_VERSION = 1
MAGIC = b"HFVOTE\0\0"
SLOT_BYTES = 512  # one sector: drives write it whole, though nothing here relies on that
SLOT_OFFSETS = (0, 4096)  # different pages: one torn page cannot reach both
VOTE_BYTES_MAX = 256  # a node's name is far shorter

_SLOT = struct.Struct("<8sIQQQQi")
_CRC = struct.Struct("<I")
_NOBODY = -1
_ADVICE = (
    "Without it this node could vote twice in one term, so it does not start. Restore the file from a "
    "copy of this node's disk made after it last ran, or put the node back as a new one with an empty "
    "data directory"
)


class _State(NamedTuple):
    generation: int
    term: int
    vote: str | None
    segment: int
    group: int


class VoteFile:
    """The open vote file. `write` is durable when it returns; an OSError from it is final."""

    def __init__(self, file: File, directory_id: bytes) -> None:
        self._file = file
        self._directory_id = directory_id
        self._state = _State(0, 0, None, 0, 0)

    @classmethod
    def create(cls, files: Directory, directory_id: bytes) -> None:
        """The file of a node that never voted: generation 1, term 0, in both slots."""
        slot = _encode(_State(1, 0, None, 0, 0), directory_id)
        replace_file(files, VOTE_NAME, slot.ljust(SLOT_OFFSETS[1], b"\0") + slot)

    @classmethod
    def open(cls, files: Directory, directory_id: bytes) -> Self:
        """Raises JournalError when neither slot can be trusted, OSError when the disk refuses."""
        file = files.open(VOTE_NAME)
        opened = cls(file, directory_id)
        try:
            opened._load(str(files.path / VOTE_NAME))
        except BaseException:
            file.close()
            raise
        return opened

    @property
    def term(self) -> int:
        return self._state.term

    @property
    def vote(self) -> str | None:
        return self._state.vote

    @property
    def segment(self) -> int:
        """The newest segment of the journal there was when this was written: it must still be there."""
        return self._state.segment

    @property
    def group(self) -> int:
        """A group of the journal that was on disk by then: it must still be there."""
        return self._state.group

    def write(self, term: int, vote: str | None, *, segment: int, group: int) -> None:
        """Put a new state into both slots, one after the other, each synced."""
        self._state = _State(self._state.generation + 1, term, vote, segment, group)
        for offset in SLOT_OFFSETS:
            self._put(offset)

    def close(self) -> None:
        self._file.close()

    def _put(self, offset: int) -> None:
        self._file.write(offset, _encode(self._state, self._directory_id))
        self._file.sync()

    def _load(self, where: str) -> None:
        slots = [
            _decode(self._file.read(offset, SLOT_BYTES), self._directory_id)
            for offset in SLOT_OFFSETS
        ]
        first, second = slots
        if isinstance(first, str) and isinstance(second, str):
            raise JournalError(
                f"{where}: both slots are unreadable (offset {SLOT_OFFSETS[0]}: {first}; "
                f"offset {SLOT_OFFSETS[1]}: {second}). {_ADVICE}"
            )
        if isinstance(first, _State) and isinstance(second, _State):
            ahead = first.generation - second.generation
            if ahead not in (0, 1) or (ahead == 0 and first != second):
                raise JournalError(
                    f"{where}: the slots at offsets {SLOT_OFFSETS[0]} and {SLOT_OFFSETS[1]} hold "
                    f"generations {first.generation} and {second.generation}, which no crash can leave "
                    f"behind. {_ADVICE}"
                )
        self._state = first if isinstance(first, _State) else cast("_State", second)
        # What was read may be in the page cache only: a killed process leaves it to be written, a sync that failed leaves it
        # marked as written. So it is written again, and must be on disk before the other slot is touched, and both before
        # anybody acts upon it.
        for offset in SLOT_OFFSETS if first == self._state else reversed(SLOT_OFFSETS):
            self._put(offset)


def _encode(state: _State, directory_id: bytes) -> bytes:
    name = b"" if state.vote is None else state.vote.encode()
    if len(name) > VOTE_BYTES_MAX:
        raise ValueError(f"a node's name may have {VOTE_BYTES_MAX} bytes, this has {len(name)}")
    length = _NOBODY if state.vote is None else len(name)
    numbers = state.generation, state.term, state.segment, state.group, length
    body = _SLOT.pack(MAGIC, FORMAT_VERSION, *numbers) + name
    body = body.ljust(SLOT_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(crc32c(body, crc32c(directory_id)))


def _decode(slot: bytes, directory_id: bytes) -> _State | str:
    """The state, or a phrase that says what is wrong with the slot."""
    if len(slot) < SLOT_BYTES:
        return f"only {len(slot)} of {SLOT_BYTES} bytes"
    magic, version, generation, term, segment, group, length = _SLOT.unpack_from(slot)
    if magic != MAGIC:
        return "foreign magic"
    if version != FORMAT_VERSION:
        return f"format version {version}, this program reads {FORMAT_VERSION}"
    body = slot[: -_CRC.size]
    if _CRC.unpack_from(slot, len(body))[0] != crc32c(body, crc32c(directory_id)):
        return "wrong checksum, or from another data directory"
    name = slot[_SLOT.size : _SLOT.size + max(length, 0)]
    return _State(generation, term, None if length == _NOBODY else name.decode(), segment, group)
