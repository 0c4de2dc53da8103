"""The invariants of Raft are watched by what they can see for themselves: bytes of the disk, terms of each entry."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.kernel import Kernel
from holdfast_coordinator.raft.memory_disk import MemoryFile
from holdfast_coordinator.raft.messages import ENTRY_ADMIT, ENTRY_NO_OP, ENTRY_OWN
from holdfast_jepsen.checker.raft_invariants import RaftInvariants
from holdfast_jepsen.faults.plan import Fault
from holdfast_jepsen.sim.run import Outcome, Variant, run
from holdfast_jepsen.sim.world import SECOND

NAMES = ("n1", "n2", "n3")
QUIET_RUN = (Fault(3 * SECOND, "kill", SECOND // 2, 1),)


def watch() -> RaftInvariants:
    return RaftInvariants(NAMES, lambda what: None)


def patched(owner: type, name: str, value: Any) -> AbstractContextManager[None]:
    """As a mutant of the scoreboard puts it in place."""
    from holdfast_jepsen.scoreboard.mutants import _patched

    return _patched(owner, name, value)


def run_with(owner: type, name: str, value: Any) -> Outcome:
    """A short run without anything that loses power."""
    around = lambda: patched(owner, name, value)  # noqa: E731 - as the scoreboard's
    return run(1, variant=Variant(plan=QUIET_RUN, around=around, pace=1), fault_seconds=2.0)


@pytest.mark.parametrize(
    "command", [ENTRY_OWN + b"b", ENTRY_NO_OP, ENTRY_ADMIT + bytes(16) + b"n1"]
)
def test_one_index_and_term_is_one_entry_of_whatever_type(command: bytes) -> None:
    """An entry of the machine and a no-op of one index and term differ as much as two entries of the machine do."""
    seen = watch()
    seen.on_append("n1", 5, 2, ENTRY_OWN + b"a", 2)
    seen.on_append("n2", 5, 2, ENTRY_OWN + b"a", 2)
    assert seen.violations == []
    seen.on_append("n3", 5, 2, command, 2)
    assert seen.violations == ["n3 has another entry 5 of term 2 than somebody else"]


def test_what_stands_in_place_of_a_snapshot_is_no_entry() -> None:
    """A log that begins anew begins with an entry that nobody sent; what follows it is compared."""
    seen = watch()
    seen.on_append("n1", 5, 2, ENTRY_OWN + b"a", 2)
    seen.on_append("n2", 5, 2, ENTRY_NO_OP, None)
    assert seen.violations == []
    seen.on_append("n3", 5, 2, ENTRY_OWN + b"a", 1)
    assert seen.violations == ["n3 has entry 5 of term 2 after one of term 1"]


def test_a_committed_entry_is_not_cut_away() -> None:
    """Whoever has it never drops it for the sake of a leader; another entry of its index goes."""
    seen = watch()
    seen.committed[7] = 3
    seen.on_cut("n1", 7, 2)
    assert seen.violations == []
    seen.on_cut("n1", 7, 3)
    assert seen.violations == ["n1 cut away entry 7 of term 3, which was committed"]


def disk_with(*terms: int) -> Any:
    """A server whose disk has entries 5 and on, of these terms."""
    entries = [(b"", index, term) for index, term in enumerate(terms, 5)]
    log = SimpleNamespace(durable_index=4 + len(terms))
    journal = type("Log", (list,), vars(log))(entries)
    return SimpleNamespace(engine=SimpleNamespace(journal=journal, store=None))


def test_a_longer_log_with_another_entry_is_no_copy() -> None:
    """Two disks that go on behind the entry count only if that entry is the committed one."""
    seen = watch()
    seen.servers = {"n1": disk_with(1, 2), "n2": disk_with(1, 1, 3), "n3": disk_with(1)}
    seen._is_on_a_majority_of_disks(6, 2)
    assert seen.violations == ["entry 6 of term 2 was committed with 1 copies on disk"]
    seen = watch()
    seen.servers = {"n1": disk_with(1, 2), "n2": disk_with(1, 2, 3), "n3": disk_with(1)}
    seen._is_on_a_majority_of_disks(6, 2)
    assert seen.violations == []


def test_the_disk_is_asked_and_not_the_journal() -> None:
    """A journal that calls durable what no sync has reached is found at once: nobody has to lose power for it."""
    outcome = run_with(MemoryFile, "sync", lambda file: None)
    assert outcome.reasons[0].endswith("for synced, and its disk has something else")


def test_an_honest_product_is_not_accused() -> None:
    """The control of the above."""
    assert run_with(Journal, "failed", Journal.failed).verdict == "valid"


def test_the_harness_syncs_nothing_in_place_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that cuts its log and does not sync is left with a journal that has something to write."""
    is_dirty: list[bool] = []
    cut_log = Kernel.cut_log

    def looking(kernel: Kernel, first_index: int) -> None:
        with monkeypatch.context() as without:
            without.setattr(Journal, "sync", lambda journal: None)
            cut_log(kernel, first_index)
        is_dirty.append(kernel._journal._is_dirty())
        kernel._journal.sync()

    monkeypatch.setattr(Kernel, "cut_log", looking)
    plan = (Fault(3 * SECOND, "lost-chunks", SECOND, 1),)
    run(1, variant=Variant(plan=plan, pace=1), fault_seconds=4.0)
    assert any(is_dirty)
