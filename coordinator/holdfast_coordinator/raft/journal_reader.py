"""Reading a journal that another process is writing: the committed entries of it, and nothing else.

The rule: the reader asks only for entries that the writer has told it are committed and durable, and the
writer keeps the segments of those while the reader works. What is behind them may be half written, or cut
away again later, and is never looked at:

    time 0   the writer: "entries up to 900 are committed and on disk"
    time 1   the reader reads segment files; the last of them ends in the middle of group 1234
    time 2   groups up to 1233 are replayed, with every cut that they contain

Committed entries are never cut, so the entries up to 900 are right whichever later groups the reader saw.
It changes nothing and does not judge damage: a group that does not check ends the reading, and then either
everything asked for was there, or `Missing` is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_coordinator.raft import segments
from holdfast_coordinator.raft.disk import read_file
from holdfast_coordinator.raft.journal import _Replay, _segment_number

if TYPE_CHECKING:
    from holdfast_coordinator.raft.disk import Directory
    from holdfast_coordinator.raft.segments import Entry


class Missing(Exception):
    """The journal's files do not hold what was asked for; str() says what."""


def read_committed(
    files: Directory, directory_id: bytes, *, after: int, through: int, through_term: int
) -> list[Entry]:
    """The entries `after` + 1 to `through`, the last of which must be of `through_term`.

    Raises Missing, OSError.
    """
    replay = _Replay()
    for name in _needed(files, directory_id, after):
        data = read_file(files, name)
        try:
            header = segments.decode_segment_header(data, directory_id)
        except segments.Unreadable as unreadable:
            raise Missing(f"{files.path / name}: {unreadable}") from unreadable
        if replay.is_empty:
            replay.begin(header.first_index)
        for group, entries in segments.decode_segment(data, header, directory_id).groups:
            if not replay.take(group, entries):
                raise Missing(f"{files.path / name}: group {group.sequence} follows a gap")
    first = replay.next - len(replay.entries)
    wanted = replay.entries[max(0, after + 1 - first) : through + 1 - first]
    if [index for _, index, _ in wanted] != list(range(after + 1, through + 1)):
        raise Missing(f"{files.path}: entries {after + 1} to {through} are not all there")
    if wanted and wanted[-1][2] != through_term:
        raise Missing(f"{files.path}: entry {through} is not of term {through_term}")
    return wanted


def _needed(files: Directory, directory_id: bytes, after: int) -> list[str]:
    """The segments from the last one that began no later than entry `after` + 1. A cut in it may reach
    further back, to entries that are not asked for."""
    names = [name for name in files.names() if _segment_number(name)]
    needed: list[str] = []
    for name in reversed(names):
        needed.insert(0, name)
        file = files.open(name)
        try:
            head = file.read(0, segments.GROUPS_OFFSET)
        finally:
            file.close()
        try:
            header = segments.decode_segment_header(head, directory_id)
        except segments.Unreadable:
            continue  # said where it is read
        if 0 < header.first_index <= after + 1:
            break
    return needed
