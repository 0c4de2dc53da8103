"""The report of a run: one page that stands alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from holdfast_jepsen.command import main
from holdfast_jepsen.history import History
from holdfast_jepsen.history.history import Operation
from holdfast_jepsen.report.page import page
from holdfast_jepsen.sim.run import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_page_escapes_what_the_run_said_and_marks_only_the_culprit() -> None:
    """A name with markup stays text; one of two operations has the red edge, once by client and once by key."""
    good = Operation("c1", "acquire", ("<b>",), "s1", 1, 2, "ok", 7)
    bad = Operation("c2", "acquire", ("<b>",), "s2", 3, 4, "ok", 8)
    outcome = Outcome(
        5, "invalid", ["key <b>: no"], "hot", 3, 1.0, 1, 2, Counter(), [], "", History([good, bad]), (bad,)
    )  # fmt: skip
    text = page(outcome, "replay 5")
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert text.count("stroke='#c00'") == 2
    assert "http" not in text


def test_sim_writes_a_page_for_an_invalid_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed runs again for its page, and the exit code stays that of an invalid run."""
    spoiled = Outcome(5, "invalid", ["no"], "hot", 3, 1.0, 1, 2, Counter(), [], "", History())
    monkeypatch.setattr("holdfast_jepsen.sim.run.run", lambda seed, **_: spoiled)
    assert main(["sim", "--start", "5", "--seeds", "1", "--reports", str(tmp_path)]) == 1
    assert "Seed 5" in (tmp_path / "seed-5.html").read_text()
