"""The log of one node on disk, under pysyncobj's journal protocol, with a `sync` that tells the truth.

The rule: changes are kept in memory until `sync`, which makes them durable as ONE atomic group. After a
crash at any moment the journal is what some `sync` left: the last one that returned, or the one that was
running. Whatever else is found at a start is refused, with a sentence for the operator.

Deleting entries is an append as well (segments.py), so there is no moment at which a deletion is half done,
and no deleted record can come back to life:

    time 0   entries 1..9 are on disk; the leader's log differs from 7 on
    time 1   memory: deleteEntriesFrom(7), add 7', add 8'       (durable_index falls to 6)
    time 2   sync appends ONE group: "keep to 6; then 7', 8'"
    crash before the group is whole:   9 old entries, as if the message had never come
    crash after it:                    1..6, 7', 8'; the old 7..9 stand in front of the cut, never behind it

`durable_index` counts only what is on disk AND still in the log; an acknowledgement above it is a lie.

A torn tail (a group whose sync never returned) is dropped at a start. To tell it from decay, a group that
nothing follows is sealed by an empty group when the node falls idle, and when it stops: damage in front of a
whole group is never a torn tail.

It does not know messages, peers or elections; it trusts its caller to call `sync` before it acts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn, overload

from holdfast_coordinator.raft import segments
from holdfast_coordinator.raft.disk import TEMPORARY_SUFFIX, File, read_file, replace_file
from holdfast_coordinator.raft.errors import JournalError
from holdfast_coordinator.raft.segments import Entry, GroupHeader, SegmentHeader
from holdfast_coordinator.raft.vote import VOTE_NAME, VoteFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.raft.datadir import DataDirectory

__all__ = ["Journal", "JournalError"]

SEGMENT_BYTES = 64 << 20
"""A segment is closed at this size: few files, and yet small pieces to drop once a snapshot covers them."""
RESERVE_BYTES = 4 << 20
"""Space is reserved in steps of this size, so that a sync seldom has to write a new file size as well. And a segment of which the
length is no multiple of it, nor that of its header alone, has been cut: a journal that was written with it is read with it."""
COMMAND_BYTES_MAX = 64 << 20
"""No command is anywhere near; a longer one is a bug of the caller, found before it is in the log."""

_PREFIX, _SUFFIX = "journal-", ".segment"
_ADVICE = (
    "Nothing was changed. Restore the file from a copy of this node's disk made after it last ran, or put "
    "the node back as a new one with an empty data directory"
)


class Journal:
    """pysyncobj's journal protocol (entries are `(command, index, term)`), and `sync`.

    Raises JournalError when the files cannot be trusted. After an error of `sync` the journal has failed
    for ever: every change and every later `sync` raises; reading what is in memory still works.
    """

    def __init__(
        self,
        directory: DataDirectory,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sync_count = 0
        """How many times `sync` had something to do."""
        self.sync_observer: Callable[[float], None] | None = None
        """Told the seconds that each such sync took."""
        self.durable_index = 0
        """The highest index that is on disk and has not been deleted since; 0: none."""
        self._files = directory.files
        self._directory_id = bytes.fromhex(directory.id)
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._failure: str | None = None
        self._entries: list[Entry] = []
        self._next = 1  # the index that the next entry must have; 0: any (an emptied log)
        self._commit_index = 1
        # What the last group on disk says; what differs from it in memory is written by the next sync.
        self._disk_first = 1
        self._disk_next = 1
        self._disk_commit_index = 1
        self._reset = False
        self._sealed = True
        # Where the next group goes.
        self._number = 0
        self._group = 1
        self._chain = 0
        self._offset = 0
        self._reserved = 0
        # (segment number, the lowest index whose present entry stands in it or in a later one)
        self._starts: list[tuple[int, int]] = []
        # Bytes of each segment but the newest, whose size is `_reserved`.
        self._closed_bytes: dict[int, int] = {}
        self._is_torn = False
        self._last_group = (segments.GROUPS_OFFSET, b"")
        """Where it stands in the last segment, and its bytes, as they were found at the start."""
        self._group_at_timer = 0
        self._file: File | None = None
        self._vote_file: VoteFile | None = None
        self._term = 0
        self._vote: str | None = None
        try:
            self._open()
        except OSError as error:
            self._close_files()
            raise JournalError(
                f"the journal in {self._files.path} cannot be used: {error}"
            ) from error
        except BaseException:
            self._close_files()
            raise

    @property
    def segment_count(self) -> int:
        """How many files the log is in."""
        return len(self._starts)

    @property
    def disk_bytes(self) -> int:
        """What those files take, space reserved for what comes included."""
        return sum(self._closed_bytes.values()) + self._reserved

    # -- pysyncobj's protocol ------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry in memory. Its index must follow the last one."""
        self._check()
        if idx != self._next and self._next:
            raise JournalError(f"entry {idx} cannot follow entry {self._next - 1}")
        if len(command) > COMMAND_BYTES_MAX:
            raise JournalError(f"an entry of {len(command)} bytes; {COMMAND_BYTES_MAX} are allowed")
        self._entries.append((command, idx, term))
        self._next = idx + 1
        if term > self._term:
            # An entry proves its term. Without this, an entry could be durable and its term not.
            self.setCurrentTerm(term, None)

    def clear(self) -> None:
        """Forget every entry; the next one may have any index. One sync with what is added then."""
        self._check()
        self._entries = []
        self._next = 0
        self._reset = True
        self.durable_index = 0
        self._commit_index = 1

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Forget the entries from this POSITION (not index) on."""
        self._check()
        if entryFrom < 0:
            raise ValueError("a position is not negative")
        count = len(self._entries) - entryFrom
        if count <= 0:
            return
        del self._entries[entryFrom:]
        self._next -= count
        self.durable_index = min(self.durable_index, self._next - 1)
        self._commit_index = max(1, min(self._commit_index, self._next - 1))

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Forget the first `entryTo` entries. Segments that hold nothing else go with the next sync."""
        self._check()
        if entryTo < 0:
            raise ValueError("a position is not negative")
        del self._entries[:entryTo]

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember how far the log is committed. Written with the next group: losing it is harmless."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        """At least 1, and never beyond the end of the log: a leader would commit the rest alone."""
        return max(1, min(self._commit_index, self._next - 1))

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Durable with the next sync, which must come before any message that rests upon it."""
        self._check()
        self._term, self._vote = term, votedForNodeId

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def onOneSecondTimer(self) -> None:
        """When nothing was written for a second: seal the last group, and write the commit index."""
        self._check()
        if self._group == self._group_at_timer and not self._is_dirty() and not self._is_sealed():
            self._write()
        self._group_at_timer = self._group

    def _destroy(self) -> None:
        """Sync, seal and close. Afterwards every change raises."""
        if self._file is None:
            return
        try:
            if self._failure is None:
                self.sync()
                if not self._is_sealed():
                    self._write()
        finally:
            self._failure = self._failure or "the journal is closed"
            self._close_files()

    # -- durability ----------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """An error has ended this journal, or it was closed."""
        return self._failure is not None

    def sync(self) -> None:
        """Make everything durable, as one group; nothing to do when nothing changed.

        Raises JournalError on any error of the disk, and at every later call: after a failed fsync the
        kernel may have dropped the pages, and another fsync that succeeds proves nothing.
        """
        self._check()
        if self._is_dirty():
            self._write()

    def _write(self) -> None:
        begun = self._clock()
        try:
            # The vote first: an entry on disk then never has a term that the vote file does not know.
            if self._is_vote_dirty():
                self._write_vote()
            if self._is_log_dirty() or not self._is_sealed():
                self._write_group()
            self._drop_segments()
        except BaseException as error:
            self._failure = f"{self._files.path}: a write of the journal failed ({error})"
            if not isinstance(error, OSError):
                raise
            raise JournalError(
                f"{self._failure}; the node stops here, and what it had not yet acknowledged may be lost. "
                "Mend the disk (space, hardware), then start the node again"
            ) from error
        self.sync_count += 1
        if self.sync_observer is not None:
            self.sync_observer(self._clock() - begun)

    def _check(self) -> None:
        if self._failure is not None:
            raise JournalError(f"the journal has ended: {self._failure}")

    def _is_dirty(self) -> bool:
        return self._is_log_dirty() or self._is_vote_dirty()

    def _is_vote_dirty(self) -> bool:
        return (self._term, self._vote) != (self._votes.term, self._votes.vote)

    def _is_log_dirty(self) -> bool:
        return (
            self.durable_index < self._next - 1
            or self._next != self._disk_next
            or self._first() != self._disk_first
            or self._reset
        )

    def _is_sealed(self) -> bool:
        """The last group is an empty one, and says what is known of the commit index."""
        return self._sealed and self.getRaftCommitIndex() == self._disk_commit_index

    def _first(self) -> int:
        """The index of the first entry, or of the one that would be; 0: any."""
        return self._entries[0][1] if self._entries else self._next

    def _write_vote(self) -> None:
        self._votes.write(self._term, self._vote, segment=self._number, group=self._group - 1)

    def _write_group(self) -> None:
        """One group from what differs between memory and disk; one write and one fdatasync."""
        first = self._first()
        # What was never on disk and is dropped already leaves a gap; an emptied log has no end to join.
        reset = self._reset or self._disk_next == 0 or first > self.durable_index + 1
        keep_to = max(first - 1, 0) if reset else self.durable_index
        entries = self._entries[keep_to + 1 - first :] if first else []
        header = GroupHeader(self._group, first, keep_to, self.getRaftCommitIndex(), reset)
        data, chain = segments.encode_group(header, entries, self._chain, self._directory_id)
        if segments.GROUPS_OFFSET < self._offset > self._segment_bytes - len(data):
            self._begin_segment()
        end = self._offset + len(data)
        if end > self._reserved:
            steps = -(-end // self._reserve_bytes)
            self._reserved = steps * self._reserve_bytes
            self._segment.reserve(self._reserved)
            self._segment.sync()  # the length first, so that a file of another length has been cut
        self._segment.write(self._offset, data)
        self._segment.sync()
        is_seal = not entries and (self._disk_first, self._disk_next) == (first, self._next)
        self._took(header, self._next)
        self._sealed = is_seal and not reset
        self._offset, self._chain, self._group = end, chain, self._group + 1
        self._reset = False
        self.durable_index = max(self._next - 1, 0)

    def _took(self, header: GroupHeader, following: int) -> None:
        """Account for a group that is on disk; `following` is the index after the last entry."""
        self._disk_first, self._disk_next = header.first_index, following
        self._disk_commit_index = header.commit_index
        for position in range(len(self._starts) - 1, -1, -1):
            number, start = self._starts[position]
            if start <= header.keep_to + 1:
                break
            self._starts[position] = (number, header.keep_to + 1)

    def _begin_segment(self) -> None:
        """A new segment gets its final name only when its header is on disk, and is noted in the vote
        file before it is used: a segment that has gone is then missed.
        """
        header = SegmentHeader(self._number + 1, self._group, self._disk_next, self._chain)
        name = _segment_name(header.number)
        replace_file(self._files, name, segments.encode_segment_header(header, self._directory_id))
        if self._file is not None:
            self._file.close()
            self._closed_bytes[self._number] = self._reserved
        self._file = self._files.open(name)
        self._number, self._offset = header.number, segments.GROUPS_OFFSET
        self._reserved = segments.GROUPS_OFFSET
        self._starts.append((header.number, max(header.first_index, 1)))
        self._write_vote()

    def _drop_segments(self) -> None:
        """Remove segments whose every entry is deleted, oldest first, so that no gap can be left."""
        while len(self._starts) > 1 and self._starts[1][1] <= max(self._disk_first, 1):
            self._files.remove(_segment_name(self._starts[0][0]))
            self._files.sync()
            self._closed_bytes.pop(self._starts[0][0], None)
            del self._starts[0]

    # -- opening -------------------------------------------------------------------------------

    @property
    def _segment(self) -> File:
        assert self._file is not None  # noqa: S101 - open until _destroy, which _check respects
        return self._file

    @property
    def _votes(self) -> VoteFile:
        assert self._vote_file is not None  # noqa: S101 - open until _destroy, which _check respects
        return self._vote_file

    def _open(self) -> None:
        names = self._files.names()
        numbers = [number for name in names if (number := _segment_number(name))]
        if VOTE_NAME not in names:
            if numbers:
                self._refuse(VOTE_NAME, 0, "the file of the term and the vote is missing")
            VoteFile.create(self._files, self._directory_id)
        self._vote_file = VoteFile.open(self._files, self._directory_id)
        self._term, self._vote = self._vote_file.term, self._vote_file.vote
        first, last = (numbers[0], numbers[-1]) if numbers else (1, 0)
        expected = list(range(first, max(last, self._votes.segment) + 1))
        if missing := sorted(set(expected) - set(numbers)):
            self._refuse(_segment_name(missing[0]), 0, "this segment of the journal is missing")
        if numbers:
            self._replay(numbers)
        else:
            self._begin_segment()
        # Nothing is refused from here on, so files may be changed.
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX) and name.startswith((_PREFIX, VOTE_NAME)):
                self._files.remove(name)
        # The last group may be in the page cache only. A killed process leaves it to be written; a sync that failed leaves it
        # marked as written, so that another sync does nothing, and it is gone with the power. So it is written again. The ones
        # before it are on disk: each was synced before the next began. With it the zeros behind it, up to the end of the file, for
        # the same reason; and the torn tail is gone before anything takes its place.
        position, group = self._last_group
        self._segment.write(position, group.ljust(self._reserved - position, b"\0"))
        self._segment.sync()
        self._files.sync()

    def _replay(self, numbers: list[int]) -> None:
        replay = _Replay()
        for number in numbers:
            self._replay_segment(number, replay, is_last=number == numbers[-1])
        last = replay.last
        if last is None:
            if numbers[0] != 1:
                self._refuse(_segment_name(numbers[0]), 0, "the segments before it are missing")
            return
        name = _segment_name(numbers[0])
        if replay.first > last.first_index > 0:
            what = f"entries {last.first_index} to {replay.first - 1} are missing before it"
            self._refuse(name, 0, what)
        if self._group <= self._votes.group:
            what = f"the journal ends here, but group {self._votes.group} was once on disk"
            self._refuse(_segment_name(numbers[-1]), self._offset, what)
        self._next = self._disk_next
        if last.first_index:
            del replay.entries[: last.first_index - replay.first]
        self._entries = replay.entries
        self.durable_index = max(self._next - 1, 0)
        self._commit_index = last.commit_index
        self._disk_commit_index = self.getRaftCommitIndex()
        self._sealed = False  # the first idle second seals what was found
        if self._entries and self._entries[-1][2] > self._term:
            what = f"it knows term {self._term}, but the log ends in term {self._entries[-1][2]}"
            self._refuse(VOTE_NAME, 0, what)

    def _replay_segment(self, number: int, replay: _Replay, *, is_last: bool) -> None:
        name = _segment_name(number)
        data = read_file(self._files, name)
        try:
            header = segments.decode_segment_header(data, self._directory_id)
        except segments.Unreadable as unreadable:
            self._refuse(name, 0, str(unreadable))
        if replay.is_empty:
            replay.begin(header.first_index)
            self._group, self._chain = header.first_group, header.chain
        if (header.number, header.first_group, header.chain) != (number, self._group, self._chain):
            self._refuse(name, 0, "it does not continue the segment before it")
        self._starts.append((number, max(replay.next, 1)))
        contents = segments.decode_segment(data, header, self._directory_id)
        for group, entries in contents.groups:
            if not replay.take(group, entries):
                what = f"group {group.sequence} continues at entry {group.keep_to + 1}, a gap"
                self._refuse(name, segments.GROUPS_OFFSET, what)
            self._took(group, replay.next)
        self._number, self._group, self._chain = number, contents.next_group, contents.chain
        self._offset, self._reserved = contents.end, len(data)
        if contents.damage is not None:
            self._judge_damage(name, data, contents.damage, is_last=is_last)
        if len(data) != segments.GROUPS_OFFSET and len(data) % self._reserve_bytes:
            self._refuse(
                name, len(data), "the file ends here, but was longer once: it has been cut"
            )
        if not is_last:
            self._closed_bytes[number] = len(data)
        if is_last:
            self._last_group = (contents.last, data[contents.last : contents.end])
            self._file = self._files.open(name)
            self._is_torn = contents.damage is not None

    def _judge_damage(
        self, name: str, data: bytes, damage: segments.Damage, *, is_last: bool
    ) -> None:
        """Return if it is a torn tail, which nobody has relied upon; refuse anything else."""
        if not damage.may_be_torn:
            self._refuse(name, damage.offset, damage.what)
        if not is_last:
            self._refuse(name, damage.offset, f"{damage.what}, and a later segment follows")
        after = segments.later_group(data, self._offset, self._group, self._directory_id)
        if after is not None:
            what = (
                f"{damage.what}, but whole entries follow at offset {after}: this was on disk once"
            )
            self._refuse(name, damage.offset, what)
        if not segments.is_missing_something(data, self._offset, self._directory_id):
            what = (
                f"{damage.what}, but nothing of it is missing: it has changed since it was written"
            )
            self._refuse(name, damage.offset, what)

    def _refuse(self, name: str, offset: int, what: str) -> NoReturn:
        raise JournalError(f"{self._files.path / name}, offset {offset}: {what}. {_ADVICE}")

    def _close_files(self) -> None:
        for file in (self._file, self._vote_file):
            if file is not None:
                file.close()
        self._file = self._vote_file = None


class _Replay:
    """The log as the groups read so far leave it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.first = 0
        self.next = 0
        self.last: GroupHeader | None = None
        self.is_empty = True  # no segment was read yet

    def begin(self, first_index: int) -> None:
        """The history before this index was dropped."""
        self.first = self.next = first_index
        self.is_empty = False

    def take(self, group: GroupHeader, entries: list[Entry]) -> bool:
        """False: the group does not touch the log before it."""
        if group.reset:
            self.entries = []
            self.first = self.next = group.first_index
        elif self.next == 0 or group.keep_to >= self.next:
            return False
        if group.keep_to + 1 < self.first:
            # Possible only where older segments were dropped: what is kept stood in them.
            self.entries = []
            self.first = group.keep_to + 1
        if self.first:
            del self.entries[group.keep_to + 1 - self.first :]
            self.entries.extend(entries)
            self.next = group.keep_to + 1 + len(entries)
        self.last = group
        return True


def _segment_name(number: int) -> str:
    return f"{_PREFIX}{number:08d}{_SUFFIX}"


def _segment_number(name: str) -> int:
    """0: not a segment."""
    digits = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    is_number = digits.isascii() and digits.isdigit()
    return int(digits) if is_number and name == _segment_name(int(digits)) else 0
