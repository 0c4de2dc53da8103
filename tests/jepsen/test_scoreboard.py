"""The harness looks: it finds the product with one cure or guarantee taken away.

The whole table: `python -m holdfast_jepsen scoreboard`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast_jepsen.command import main
from holdfast_jepsen.scoreboard import by_test, table
from holdfast_jepsen.scoreboard.by_test import BY_TEST
from holdfast_jepsen.scoreboard.mutants import BY_NAME, MUTANTS
from holdfast_jepsen.scoreboard.stock import STOCK
from holdfast_jepsen.scoreboard.table import hunt
from holdfast_jepsen.scoreboard.under_mutant import is_verdict

FOUND_WITHIN = {
    "answers-before-sync": 2,
    "sync-does-nothing": 2,
    "votes-forgotten": 2,
    "grants-twice": 2,
}
"""Seeds, for the mutants that are quick to find; the others are left to the whole scoreboard."""
pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND_WITHIN)
def test_a_mutant_is_found(name: str) -> None:
    """Within so many seeds a run under this mutant is invalid."""
    seed, why = hunt(BY_NAME[name], FOUND_WITHIN[name], fault_seconds=4.0)
    assert seed is not None, f"{name} survived"
    assert why


def test_every_deviation_and_guarantee_has_a_mutant() -> None:
    """Of the audit all but D18, which is about strangers and not about faults; and G1 to G11."""
    weakened = ",".join(each.weakens for each in (*MUTANTS, *BY_TEST))
    found = set(re.findall(r"[DG]\d+", weakened))
    expected = {f"D{number}" for number in range(1, 38)} | {f"G{number}" for number in range(1, 12)}
    assert expected - found == {"D18"}


@pytest.mark.parametrize("test", sorted({each.test for each in BY_TEST} | set(STOCK.values())))
def test_the_tests_that_the_scoreboard_runs_exist(test: str) -> None:
    """A test that was renamed must not be taken for one that fails."""
    path, *names = test.split("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf"^\s*(?:class|def|async def) {name}\b", text, re.MULTILINE), name


def test_a_mutant_of_a_test_is_put_in_place_and_taken_away() -> None:
    """What it changes is there for the time of the block, and as before afterwards."""
    for mutant in BY_TEST:
        if mutant.change is None:
            continue
        owner, name, value = mutant.change
        before = owner.__dict__[name]
        with mutant.in_place():
            assert owner.__dict__[name] is value
        assert owner.__dict__[name] is before


def test_a_test_that_breaks_has_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed assertion is a verdict, a TypeError is none: the mutant does not fit the product any more."""
    assert is_verdict(AssertionError())
    assert is_verdict(pytest.fail.Exception("DID NOT RAISE"))
    assert is_verdict(IndexError(), ("IndexError",))
    assert is_verdict(ExceptionGroup("both", [AssertionError(), AssertionError()]))
    assert not is_verdict(TypeError())
    assert not is_verdict(ExceptionGroup("one", [AssertionError(), TypeError()]))

    def breaks(*tests: str, mutant: str) -> bool:
        raise RuntimeError(f"{tests[0]} cannot be run")

    monkeypatch.setattr(by_test, "passes", breaks)
    row = table.tested(by_test.by_name()["one-by-one"], passes_without=True)
    assert not row.found
    assert row.why.endswith(" cannot be run")


def test_a_mutant_that_does_not_exist_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped name is no success: nothing was looked for."""
    assert main(["scoreboard", "grants-twice", "grants-thrice"]) == 2
    assert capsys.readouterr().err == "there is no mutant grants-thrice\n"


@pytest.mark.slow
def test_a_test_finds_its_mutant_and_nothing_else() -> None:
    """One of the quick ones: it passes without the mutant, and fails with it."""
    mutant = by_test.by_name()["one-by-one"]
    assert by_test.is_found(mutant)
