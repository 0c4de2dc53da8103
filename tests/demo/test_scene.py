"""What the demo counts, draws, and finally says."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from holdfast_coordinator.demo.books import FencedBooks, NaiveBooks
from holdfast_coordinator.demo.messages import Intake, Message
from holdfast_coordinator.demo.scene import Frozen, GrantGaps, NodeLine, Scene, WorkerLine
from holdfast_coordinator.demo.summary import summarise
from holdfast_coordinator.demo.view import View, show_summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = Message("p-1", "1", "collect", 500, "EUR")
BACK = Message("p-1", "1", "refund", 200, "EUR")
ORPHAN = Message("p-9", "1", "refund", 200, "EUR")


def a_good_scene(messages: int) -> Scene:
    frozen = Frozen("w1", 1, ONE.order, ONE.lock_key, 1, overtaken_by="w2", late_write="stale")
    return Scene(
        {"n1": NodeLine("leader", 1, 10)},
        {f"w{number}": WorkerLine() for number in range(1, 15)},
        messages,
        stale_writes=1,
        settled=messages,
        leader_killed="n1",
        leader_back=True,
        frozen=frozen,
    )


@pytest.fixture
def books(tmp_path: Path) -> Iterator[FencedBooks]:
    opened = FencedBooks(tmp_path / "books.db")
    yield opened
    opened.close()


def test_the_longest_gap_begins_with_the_first_grant() -> None:
    """Before it the workers are still starting, which is nobody's failure."""
    gaps = GrantGaps()
    gaps.work_is_there(True, 0.0)
    gaps.granted(10.0)
    gaps.granted(10.5)
    gaps.granted(12.0)
    gaps.granted(12.1)
    assert gaps.longest_seconds == 1.5


def test_a_time_without_work_is_no_gap() -> None:
    """While all that is left waits for the frozen worker's key, no grant is due."""
    gaps = GrantGaps()
    gaps.granted(0.0)
    gaps.work_is_there(False, 1.0)
    gaps.granted(50.0)
    gaps.work_is_there(True, 60.0)
    gaps.granted(62.0)
    assert gaps.longest_seconds == 2.0


def test_all_promises_kept(books: FencedBooks) -> None:
    """Every order once, duplicates or not; what the ledger refused for good is not due; the verdict is good."""
    books.begin(ONE, 1)
    books.write(ONE, 1)
    books.write(BACK, 2)
    assert books.begin(ONE, 3)
    intake = Intake((ONE, ONE, BACK, ORPHAN), (), 0)
    summary = summarise(intake, a_good_scene(4), books, [ORPHAN])
    assert summary.ok, summary.promises
    assert (summary.figures["payments"], summary.figures["captured_once"]) == (2, 2)
    assert summary.as_json()["ok"] is True


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"settled": 0}, "no message is left over"),
        ({"leader_back": False}, "the leader was killed, and came back"),
        ({"frozen": None}, "a frozen worker was overtaken"),
        ({"stale_writes": 0}, "its late write was refused as stale"),
    ],
)
def test_a_broken_promise_is_named(
    books: FencedBooks, change: dict[str, object], broken: str
) -> None:
    """Good books are not enough: each promise is judged by itself."""
    books.write(ONE, 1)
    scene = a_good_scene(1)
    for name, value in change.items():
        setattr(scene, name, value)
    summary = summarise(Intake((ONE,), (), 0), scene, books, [])
    assert not summary.ok
    assert (broken, False) in summary.promises


def test_a_payment_that_is_not_in_the_books_breaks_the_first_promise(books: FencedBooks) -> None:
    """Also when the workers said that they had captured it."""
    summary = summarise(Intake((ONE,), (), 0), a_good_scene(1), books, [])
    assert ("every payment is in the books", False) in summary.promises


def test_the_naive_books_show_what_happened_twice(tmp_path: Path) -> None:
    """A status check, then an insert: a holder that stalls between them captures again."""
    books = NaiveBooks(tmp_path / "naive.db")
    books.create()
    assert not books.begin(ONE, 1)  # worker A looks, and stalls
    assert not books.begin(ONE, 2)
    books.write(ONE, 2)
    assert books.begin(ONE, 3), "a plain duplicate is noticed"
    books.write(ONE, 1)  # worker A wakes up
    summary = summarise(Intake((ONE,), (), 0), a_good_scene(1), books, [])
    books.close()
    assert not summary.ok
    assert summary.twice == (("collect p-1", 2),)


def test_the_view_writes_plain_lines_without_a_terminal(books: FencedBooks) -> None:
    """Each line of the story once, whole, and names are never markup."""
    out = io.StringIO()
    view = View(Console(file=out, width=40))
    scene = a_good_scene(1)
    with view:
        scene.tell(
            "w1: something about [bold]p-1[/bold], longer than the forty columns of this console"
        )
        view.update(scene)
        view.update(scene)
    assert (
        out.getvalue().count("[bold]p-1[/bold], longer than the forty columns of this console\n")
        == 1
    )
    books.write(ONE, 1)
    show_summary(Console(file=out), summarise(Intake((ONE,), (), 0), scene, books, []))
    assert "kept    none of them twice" in out.getvalue()


def test_the_view_draws_tables_on_a_terminal() -> None:
    """Nodes, workers (of many the first, and how many more), the counters and the story."""
    out = io.StringIO()
    scene = a_good_scene(1)
    scene.workers["w14"].state = "frozen"
    scene.tell("w14: FROZEN")
    with View(Console(file=out, force_terminal=True, width=120, height=50)) as view:
        view.update(scene)
    shown = out.getvalue()
    for text in (
        "n1",
        "leader",
        "w14",
        "frozen",
        "and 4 more",
        "w14: FROZEN",
        "1/1 messages settled",
    ):
        assert text in shown


def test_a_quiet_view_writes_nothing() -> None:
    """`--json` has standard output for itself."""
    out = io.StringIO()
    with View(Console(file=out), quiet=True) as view:
        view.say("x")
        view.update(a_good_scene(1))
    assert out.getvalue() == ""
