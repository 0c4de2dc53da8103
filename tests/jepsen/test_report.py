"""The report of a run: one page that stands alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lock_histories import honest

from holdfast_jepsen.checker import linearizability
from holdfast_jepsen.command import main
from holdfast_jepsen.history import History, Lease
from holdfast_jepsen.history.history import Operation
from holdfast_jepsen.report.lanes import Bar, packed
from holdfast_jepsen.report.page import page
from holdfast_jepsen.report.points import points_of, smallest_illegal_prefix, spread
from holdfast_jepsen.report.run import of_simulated
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def outcome_of(history: History, culprits: tuple[Operation, ...] = ()) -> Outcome:
    return Outcome(
        5, "invalid", ["key <b>: no"], "hot", 3, 1.0, 1, 2, Counter(), [], "", history, culprits
    )


def test_the_page_escapes_what_the_run_said_and_needs_no_network() -> None:
    """A name with markup stays text; nothing on the page is fetched from anywhere."""
    one = Operation("c1", "acquire", ("<b>",), "s1", 1, 2, "ok", 7)
    text = page(of_simulated(outcome_of(History([one])), "replay 5"))
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "http" not in text
    assert "src=" not in text


def test_the_page_shows_the_shortest_beginning_that_no_order_explains() -> None:
    """time 0: a holds the key; time 1: b is granted it, which nothing explains; time 2: what follows is no part of the proof."""
    history = History(
        [
            Operation("a", "acquire", ("k",), "a", 0, 1, "ok", token=1),
            Operation("b", "acquire", ("k",), "b", 2, 3, "ok", token=2),
            Operation("b", "release", ("k",), "b", 4, 5, "ok", token=2),
            Operation("a", "release", ("k",), "a", 6, 7, "ok", token=1),
        ],
        [Lease("a", 0, 1_000_000), Lease("b", 0, 1_000_000)],
    )
    verdict = linearizability.check(history)[0]
    assert verdict.answer == "illegal"
    prefix = smallest_illegal_prefix(history, "k")
    assert prefix is not None
    assert prefix.last == history.operations[1]
    assert [each.called for each in prefix.operations] == [0, 2]
    text = page(of_simulated(outcome_of(history, verdict.culprits), "replay 5"))
    assert text.count("<tr class='culprit'>") == 1
    assert "2 operations" in text


def test_a_history_that_an_order_explains_has_no_illegal_beginning() -> None:
    """Nothing is called a violation that is none."""
    assert smallest_illegal_prefix(honest(Rng(4, "honest"), 40), "k") is None


def test_every_operation_takes_effect_within_its_time() -> None:
    """The points of an honest history are in the order of the checker, none before its call, none after its return."""
    history = honest(Rng(4, "honest"), 60)
    for key, points in points_of(history).items():
        assert [at for _, at in points] == sorted(at for _, at in points)
        for operation, at in points:
            assert key in operation.keys
            assert operation.called <= at
            assert operation.returned is None or at <= operation.returned
    assert spread([]) == []


def test_bars_that_overlap_are_put_beneath_each_other() -> None:
    """Two at once need two lanes; the third takes the one that is free again."""
    bars = [Bar(0, 10, "", ""), Bar(5, 15, "", ""), Bar(11, 20, "", "")]
    placed, lanes = packed(bars, 0)
    assert [lane for _, lane in placed] == [0, 1, 0]
    assert lanes == 2


def test_sim_writes_a_page_for_an_invalid_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed runs again for its page, and the exit code stays that of an invalid run."""
    spoiled = Outcome(5, "invalid", ["no"], "hot", 3, 1.0, 1, 2, Counter(), [], "", History())
    monkeypatch.setattr("holdfast_jepsen.sim.run.run", lambda seed, **_: spoiled)
    assert main(["sim", "--start", "5", "--seeds", "1", "--reports", str(tmp_path)]) == 1
    assert "Seed 5" in (tmp_path / "seed-5.html").read_text()
