"""The journal against a plain list, through kills, power cuts and failed syncs, in any order."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import JournalError
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.memory_disk import MemoryDisk, Write

PATH = Path("/data/n1")


class Against(RuleBasedStateMachine):
    """`log` and `vote` are what memory must say, `safe_*` what the last sync that returned left."""

    @initialize()
    def start(self) -> None:
        self.disk = MemoryDisk()
        self.log: list[tuple[bytes, int, int]] = []
        self.vote: tuple[int, str | None] = (0, None)
        self.next = 1
        self.boot = 0
        self.open()
        self.safe()

    def open(self) -> None:
        directory = DataDirectory.open(PATH, cluster="c", node="n1", disk=self.disk)
        assert directory.boot > self.boot
        self.boot = directory.boot
        self.journal = Journal(directory, segment_bytes=300, reserve_bytes=128)

    def safe(self) -> None:
        self.safe_log, self.safe_vote, self.safe_next = list(self.log), self.vote, self.next

    @rule(commands=st.lists(st.binary(max_size=60), min_size=1, max_size=4), later=st.booleans())
    def add(self, commands: list[bytes], later: bool) -> None:
        term = self.vote[0] + later
        if later:
            self.vote = (term, None)
        for command in commands:
            entry = (command, self.next, term)
            self.journal.add(*entry)
            self.log.append(entry)
            self.next += 1

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.log) + 1))
        self.journal.deleteEntriesFrom(position)
        self.next -= max(0, len(self.log) - position)
        del self.log[position:]

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.log)))
        self.journal.deleteEntriesTo(count)
        del self.log[:count]

    @rule(index=st.integers(1, 60))
    def install(self, index: int) -> None:
        self.journal.clear()
        self.log, self.next = [], index
        self.add([b"prev", b"last"], later=False)

    @rule(more=st.integers(0, 2), vote=st.sampled_from([None, "n1", "n2"]))
    def elect(self, more: int, vote: str | None) -> None:
        self.vote = (self.vote[0] + more, vote)
        self.journal.setCurrentTerm(*self.vote)

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.safe()
        assert self.journal.durable_index == self.next - 1

    @rule()
    def second(self) -> None:
        before = self.journal.sync_count
        self.journal.onOneSecondTimer()
        if self.journal.sync_count != before:
            self.safe()

    @rule()
    def stop(self) -> None:
        self.journal._destroy()
        self.safe()
        self.disk = self.disk.after_power_cut()
        self.open()

    @rule()
    def kill(self) -> None:
        self.disk = self.disk.after_kill()
        self.open()
        self.back_to_safe()

    @rule(at=st.integers(0, 14), fails=st.booleans(), data=st.data())
    def interrupt(self, at: int, fails: bool, data: st.DataObject) -> None:
        """A sync ends at its n-th step, and any part of what was not synced survives."""
        last = self.disk.steps + at

        def interrupt(_) -> None:
            if self.disk.steps >= last:
                raise OSError(errno.EIO, "injected") if fails else KeyboardInterrupt

        self.disk.before = interrupt
        try:
            self.journal.sync()
        except (JournalError, KeyboardInterrupt):
            assert self.journal.failed
        else:
            self.safe()
        new_log = list(self.log), self.next
        survivors = []
        for effect in self.disk.unsynced:
            survives = data.draw(st.sampled_from(["whole", "gone", "beginning", "end"]))
            if survives == "whole":
                survivors.append(effect)
            elif survives != "gone" and isinstance(effect, Write) and len(effect.data) > 1:
                middle = data.draw(st.integers(1, len(effect.data) - 1))
                survivors.append(
                    replace(effect, data=effect.data[:middle])
                    if survives == "beginning"
                    else replace(effect, offset=effect.offset + middle, data=effect.data[middle:])
                )
        self.disk = self.disk.after_power_cut(survivors)
        self.open()
        # All that is found at a start is on disk, so durable_index says where an empty log goes on.
        found_log = self.journal[:], self.journal.durable_index + 1
        found_vote = self.journal.getCurrentTerm(), self.journal.getVotedForNodeId()
        old_log = self.safe_log, self.safe_next
        assert (found_log, found_vote) in (
            (old_log, self.safe_vote),
            (old_log, self.vote),
            (new_log, self.vote),
        )
        (self.safe_log, self.safe_next), self.safe_vote = found_log, found_vote
        self.back_to_safe()

    def back_to_safe(self) -> None:
        self.log, self.vote, self.next = list(self.safe_log), self.safe_vote, self.safe_next

    @invariant()
    def memory_is_the_list(self) -> None:
        assert self.journal[:] == self.log
        assert len(self.journal) == len(self.log)
        assert (self.journal.getCurrentTerm(), self.journal.getVotedForNodeId()) == self.vote
        assert self.journal.durable_index <= max(self.safe_next, self.next) - 1
        durable = self.journal.durable_index
        present = [entry for entry in self.log if entry[1] <= durable]
        assert all(entry in self.safe_log for entry in present)


TestAgainst = pytest.mark.timeout(120)(Against.TestCase)
TestAgainst.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
