"""What is not a torn tail is refused, with the file, the offset, and what the operator can do."""

from __future__ import annotations

import pytest

from holdfast_coordinator.raft import segments
from holdfast_coordinator.raft.errors import JournalError

SEGMENT = "journal-00000001.segment"


@pytest.fixture
def filled(big_store):
    """Three groups of two entries and a vote, stopped in good order."""
    for first in (b"a", b"c", b"e"):
        big_store.add(first * 20, first.upper() * 20)
        big_store.journal.setCurrentTerm(first[0], "n2")
        big_store.journal.sync()
    big_store.journal._destroy()
    return big_store


def flip(store, name: str, offset: int) -> None:
    data = bytearray(store.disk.contents(store.path, name))
    data[offset] ^= 0x10
    store.disk.damage(store.path, name, bytes(data))


def refused(store) -> str:
    with pytest.raises(JournalError) as caught:
        store.killed()
    return str(caught.value)


def test_a_flipped_bit_anywhere_in_the_log_is_refused(filled) -> None:
    """Each byte of a log: never another one, never a shorter one."""
    data = filled.disk.contents(filled.path, SEGMENT)
    expected = filled.killed().journal[:]
    end = data.rindex(segments.GROUP_MAGIC)  # the seal, an empty group
    for offset in range(end + segments.GROUP_HEADER_BYTES):
        flip(filled, SEGMENT, offset)
        if offset in range(60, 64):  # padding
            assert filled.killed().journal[:] == expected
        else:
            message = refused(filled)
            assert f"{filled.path}/{SEGMENT}, offset " in message
            assert "Restore the file" in message
        filled.disk.damage(filled.path, SEGMENT, data)


def test_the_message_names_the_damaged_entry_and_its_offset(filled) -> None:
    data = filled.disk.contents(filled.path, SEGMENT)
    offset = data.index(b"C" * 20)
    flip(filled, SEGMENT, offset + 3)
    message = refused(filled)
    assert f"offset {offset - segments.RECORD_HEADER_BYTES}: the checksum of entry 4" in message
    assert "whole entries follow" in message


def test_a_refused_journal_is_left_as_it_is(filled) -> None:
    """The operator may want to look at it, or send it to somebody."""
    flip(filled, SEGMENT, 200)
    before = filled.disk.contents(filled.path, SEGMENT), filled.disk.contents(filled.path, "vote")
    with pytest.raises(JournalError):
        filled.open_journal()
    after = filled.disk.contents(filled.path, SEGMENT), filled.disk.contents(filled.path, "vote")
    assert before == after


def test_an_end_that_is_cut_off_or_zeroed_is_missed(filled) -> None:
    """The vote file names a group that was on disk: a shorter log is not a torn tail."""
    data = filled.disk.contents(filled.path, SEGMENT)
    second = data.index(segments.GROUP_MAGIC, data.index(segments.GROUP_MAGIC) + 1)
    for left, why in (
        (data[:second], "has been cut"),
        (data[: second + 30], "has been cut"),
        (data[:second].ljust(len(data), b"\0"), "was once on disk"),
    ):
        filled.disk.damage(filled.path, SEGMENT, left)
        refusing = filled.disk.after_kill()
        with pytest.raises(JournalError, match=why):
            filled.again(refusing)
        assert refusing.contents(filled.path, SEGMENT) == left, "it is kept as it was found"


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: b"", "only 0 bytes"),
        (lambda data: b"PYSYNCOBJ" + data[9:], "foreign magic"),
        (lambda data: data[:8] + b"\x02" + data[9:], "format version 2, this program reads 1"),
        (lambda data: data[:20] + b"?" + data[21:], "the header's checksum is wrong"),
    ],
)
def test_a_foreign_or_newer_segment_is_refused(filled, damage, what) -> None:
    data = filled.disk.contents(filled.path, SEGMENT)
    filled.disk.damage(filled.path, SEGMENT, damage(data))
    assert what in refused(filled)


def test_a_segment_of_another_directory_is_refused(filled) -> None:
    header = segments.encode_segment_header(segments.SegmentHeader(1, 1, 1, 0), b"\xcc" * 16)
    filled.disk.damage(filled.path, SEGMENT, header)
    assert "another data directory (" + "cc" * 16 in refused(filled)


def test_a_missing_segment_is_noticed_wherever_it_was(store) -> None:
    for number in range(12):
        store.add(b"%d" % number * 60)
        store.journal.sync()
    names = [name for name in store.names() if name.endswith(".segment")]
    assert len(names) >= 4
    for name in names:
        left = store.disk.after_kill()
        left.directory(store.path).remove(name)
        with pytest.raises(JournalError, match="missing") as caught:
            store.again(left)
        if name != names[0]:
            assert name in str(caught.value)


def test_segments_in_the_wrong_place_are_refused(store) -> None:
    """A copy of the second segment under the name of the third."""
    for number in range(12):
        store.add(b"%d" % number * 60)
        store.journal.sync()
    second = store.disk.contents(store.path, "journal-00000002.segment")
    store.disk.damage(store.path, "journal-00000003.segment", second)
    assert "does not continue the segment before it" in refused(store)


def test_damage_in_an_older_segment_is_never_a_torn_tail(store) -> None:
    for number in range(6):
        store.add(b"%d" % number * 100)
        store.journal.sync()
    data = store.disk.contents(store.path, SEGMENT)
    flip(store, SEGMENT, data.rindex(segments.GROUP_MAGIC) + 30)
    assert "a later segment follows" in refused(store)


def test_one_unreadable_vote_slot_is_repaired_from_its_equal(filled) -> None:
    """Both slots hold what was acted upon, so neither can bring back an older vote."""
    good = filled.disk.contents(filled.path, "vote")
    for offset in (0, 40, 511, 4096, 4140, 4607):
        flip(filled, "vote", offset)
        again = filled.killed()
        assert again.journal.getVotedForNodeId() == "n2"
        assert again.journal.getCurrentTerm() == ord("e")
        assert again.disk.contents(again.path, "vote") == good
        filled.disk.damage(filled.path, "vote", good)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: b"\x80\x04}" + data[3:4096] + b"\x80\x04}" + data[4099:],
        lambda data: data[:100] + b"?" + data[101:4200] + b"?" + data[4201:],
        lambda data: data[:8] + b"\x02" + data[9:4104] + b"\x02" + data[4105:],
    ],
)
def test_a_vote_file_that_does_not_check_stops_the_node(filled, damage) -> None:
    """Guessing would be to vote twice in a term."""
    data = filled.disk.contents(filled.path, "vote")
    filled.disk.damage(filled.path, "vote", damage(data))
    message = refused(filled)
    assert "/data/n1/vote: both slots are unreadable (offset 0: " in message
    assert "put the node back as a new one" in message


def test_vote_slots_that_no_crash_can_leave_are_refused(filled) -> None:
    """An older file copied over half of it: slot 1 must never be ahead of slot 0."""
    good = filled.disk.contents(filled.path, "vote")
    again = filled.killed()
    again.journal.setCurrentTerm(200, "n3")
    again.journal.sync()
    newer = again.disk.contents(again.path, "vote")
    again.disk.damage(again.path, "vote", good[:4096] + newer[4096:])
    assert "which no crash can leave behind" in refused(again)


def test_a_missing_vote_file_stops_the_node(filled) -> None:
    filled.directory.files.remove("vote")
    assert "the file of the term and the vote is missing" in refused(filled)


def test_a_vote_file_older_than_the_log_stops_the_node(big_store) -> None:
    """Somebody restored the vote file alone from a backup."""
    old = big_store.disk.contents(big_store.path, "vote")
    big_store.add(b"a", term=4)
    big_store.journal.sync()
    big_store.disk.damage(big_store.path, "vote", old)
    assert "it knows term 0, but the log ends in term 4" in refused(big_store)


def test_a_command_that_looks_like_a_group_is_only_a_command(big_store) -> None:
    """The search for a later group behind a torn tail must not find one inside somebody's payload."""
    group = segments.GroupHeader(9, 1, 9, 1)
    forged, _ = segments.encode_group(group, [], 0, bytes(16))
    big_store.add(b"a")
    big_store.journal.sync()
    big_store.add(forged, forged)
    cuts = []

    def cut(step) -> None:
        if step.call == "sync":
            cuts.extend(big_store.disk.power_cuts(stride=3))

    big_store.disk.before = cut
    big_store.journal.sync()
    assert cuts
    for left in cuts:
        assert big_store.again(left).commands in ([b"a"], [b"a", forged, forged])


def test_a_group_of_another_history_is_refused(big_store) -> None:
    """A part of a copy of this very directory that went its own way: right owner, right number, and yet
    not what followed here.
    """
    big_store.add(b"a")
    big_store.journal.sync()
    other = big_store.killed()
    for store, command in ((big_store, b"mine"), (other, b"else")):
        store.add(command)
        store.journal.sync()
        store.add(b"last")
        store.journal.sync()
    mine, theirs = (store.disk.contents(store.path, SEGMENT) for store in (big_store, other))
    assert len(mine) == len(theirs)
    third = mine.rindex(segments.GROUP_MAGIC)
    big_store.disk.damage(big_store.path, SEGMENT, mine[:third] + theirs[third:])
    assert f"offset {third}: group 3 is not group 3, or not of this history" in refused(big_store)


def test_a_segment_that_was_cut_anywhere_is_refused(filled) -> None:
    """Also within what was written last, where only its length tells a cut from an end that was never synced."""
    data = filled.disk.contents(filled.path, SEGMENT)
    for length in range(segments.GROUPS_OFFSET + 1, len(data)):
        if length % filled.reserve_bytes:
            filled.disk.damage(filled.path, SEGMENT, data[:length])
            with pytest.raises(JournalError, match=r"has been cut|was once on disk"):
                filled.again(filled.disk.after_kill())


def unsealed(store, payload: bytes) -> tuple[int, bytes]:
    """A group that was synced last, with nothing behind it yet: where it begins, and the segment."""
    store.add(b"before")
    store.journal.sync()
    begins = store.journal._offset
    store.add(payload)
    store.journal.sync()
    return begins, store.disk.contents(store.path, SEGMENT)


def test_a_flipped_bit_in_the_group_that_was_synced_last_is_refused(big_store) -> None:
    """Its entries may be acknowledged. Nothing of it is missing, so it is no torn tail."""
    begins, data = unsealed(big_store, b"payload" * 20)
    ends = len(data.rstrip(b"\0"))
    for offset in range(begins, ends):
        changed = bytearray(data)
        changed[offset] ^= 0x40
        if not changed[ends - 1]:
            continue  # the one flip that looks as if the last byte had not been written
        big_store.disk.damage(big_store.path, SEGMENT, bytes(changed))
        with pytest.raises(
            JournalError, match=r"has changed since|not of this history|stands where"
        ):
            big_store.again(big_store.disk.after_kill())


def test_a_group_of_which_a_sector_or_the_end_never_arrived_is_dropped(big_store) -> None:
    """Its sync never returned, so nobody was promised anything about it."""
    begins, data = unsealed(big_store, b"payload" * 400)
    ends = len(data.rstrip(b"\0"))
    for at in range(begins - begins % 512, ends, 512):
        first = max(at, begins)
        for missing in (range(first, min(at + 512, ends)), range(first, ends)):
            torn = bytearray(data)
            torn[missing.start : missing.stop] = bytes(len(missing))
            big_store.disk.damage(big_store.path, SEGMENT, bytes(torn))
            assert big_store.again(big_store.disk.after_kill()).commands == [b"before"]
