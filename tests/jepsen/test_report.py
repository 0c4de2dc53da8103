"""The report of a run: one page that stands alone."""

from __future__ import annotations

from collections import Counter

from holdfast_jepsen.history import History
from holdfast_jepsen.history.history import Operation
from holdfast_jepsen.report.page import page
from holdfast_jepsen.sim.run import Outcome


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
