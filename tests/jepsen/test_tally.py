"""What many runs add up to: unknown is a failure, and so is a fault that never had an effect."""

from __future__ import annotations

from collections import Counter

import pytest

from holdfast_jepsen.command import main
from holdfast_jepsen.faults.plan import Fault
from holdfast_jepsen.history import History
from holdfast_jepsen.sim.run import Outcome
from holdfast_jepsen.sim.tally import NEVER_FIRED_MIN, Tally


def outcome(
    seed: int, verdict: str = "valid", *, planned: int = 0, fired: int = 0, pace: int = 20
) -> Outcome:
    return Outcome(
        seed=seed,
        verdict=verdict,
        reasons=[] if verdict == "valid" else ["something"],
        workload="queue",
        nodes=3,
        pace=pace,
        virtual_seconds=1800.0,
        events=1,
        answered=1,
        fired=Counter({"kill": fired}) if fired else Counter(),
        plan=[Fault(0, "kill", 1, 1)] * planned,
        trace_hash="",
        history=History(),
    )


def total(*outcomes: Outcome) -> Tally:
    tally = Tally()
    for each in outcomes:
        tally.add(each)
    return tally


def test_one_seed_decides_for_all() -> None:
    """Unknown outweighs valid, invalid outweighs both, and nothing is known of no seed at all."""
    valid, unknown, invalid = outcome(1), outcome(2, "unknown"), outcome(3, "invalid")
    assert total(valid).verdict == "valid"
    assert total(valid, unknown).verdict == "unknown"
    assert total(invalid, unknown, valid).verdict == "invalid"
    assert total().verdict == "unknown"


def test_a_fault_that_never_fired_makes_all_unknown() -> None:
    """Planned so often, it must have had an effect once; under each workload, where it was planned so often there."""
    never = outcome(1, planned=NEVER_FIRED_MIN)
    assert total(never).verdict == "unknown"
    assert total(never).blind == ["kill", "kill under queue"]
    assert total(never, outcome(2, planned=1, fired=1)).verdict == "valid"
    assert total(outcome(1, planned=NEVER_FIRED_MIN - 1)).verdict == "valid"


def test_hours_are_told_for_each_pace() -> None:
    """Hours at stretched periods and hours at those as shipped are different things."""
    lines = total(outcome(5), outcome(6), outcome(7, pace=1)).lines(10.0)
    assert "3 seeds, 5 to 7: 3 valid" in lines
    assert "0.50 virtual hours at the periods as shipped" in lines
    assert "1.00 virtual hours at 20 times the periods" in lines
    assert lines[-1] == "verdict: valid"


@pytest.mark.slow
def test_seeds_and_verdict_are_written(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each seed has its line, and the verdict in the file is the one that was printed."""
    arguments = ["sim", "--seeds", "2", "--start", "3", "--fault-seconds", "4"]
    assert main([*arguments, "--reports", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith((tmp_path / "verdict.txt").read_text())
    lines = (tmp_path / "seeds.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["3", "valid"], ["4", "valid"]]
