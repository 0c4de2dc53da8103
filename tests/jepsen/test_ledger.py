"""The ledger workload: captures through the fence are right under pauses, and the control shows what they would be without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast_jepsen.checker import ledger as checker
from holdfast_jepsen.history import History
from holdfast_jepsen.history.history import Operation
from holdfast_jepsen.live import ledger as live
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import Variant, run
from holdfast_jepsen.workloads import mix as mixes
from holdfast_jepsen.workloads.ledger import FENCED, UNFENCED, Messages, Write

if TYPE_CHECKING:
    from pathlib import Path

STALLS = ("pause-client", "slow-client")
SECONDS = 5.0
SEEDS_MAX = 20
"""For the control: it shows what it must within the first few."""


def write(process: str, payment: str, fence: int, answer: str = "ok") -> Write:
    return Write(process, "k", payment, fence, 0, answer)  # type: ignore[arg-type]


def granted(process: str, token: int) -> Operation:
    return Operation(process, "acquire", ("k",), process, 0, 1, "ok", token=token)


@pytest.mark.slow
def test_payments_are_captured_once_through_the_fence() -> None:
    """Workers stall for longer than their lease, writes are late, messages come twice: the books are right."""
    for seed in (0, 1):
        outcome = run(seed, variant=Variant(workload=FENCED, kinds=STALLS), fault_seconds=SECONDS)
        assert outcome.verdict == "valid", (seed, outcome.reasons)


@pytest.mark.slow
@pytest.mark.timeout(240)  # a bound for a busy machine: on an idle one the first seed shows it
def test_without_the_fence_a_payment_is_captured_twice() -> None:
    """The control. If no seed shows two workers that capture one payment, under two tokens, then the harness is blind."""
    for seed in range(SEEDS_MAX):
        outcome = run(seed, variant=Variant(workload=UNFENCED, kinds=STALLS), fault_seconds=SECONDS)
        for reason in outcome.reasons:
            _, _, tokens = reason.partition("times: under tokens ")
            if len(set(tokens.split(", "))) > 1:
                assert outcome.verdict == "invalid"
                return
    pytest.fail(f"none of {SEEDS_MAX} seeds shows a double capture without the fence")


@pytest.mark.parametrize(
    ("writes", "told"),
    [
        ([write("b", "p1", 2), write("a", "p2", 1)], "the ledger took fence 1 of a after 2"),
        ([write("a", "p1", 1), write("b", "p1", 2)], "payment p1 was captured 2 times"),
        ([write("a", "p1", 1), write("b", "p2", 7)], "fence 7 of b, which was not granted it"),
        ([write("b", "p1", 1)], "fence 1 of b, which was not granted it"),
    ],
)
def test_what_no_ledger_should_take_is_told(writes: list[Write], told: str) -> None:
    """A falling fence, a payment twice, a fence that was never granted, and one that was granted to somebody else."""
    history = History([granted("a", 1), granted("b", 2)])
    assert any(told in sentence for sentence in checker.check(history, writes, ()))


def test_what_a_ledger_refused_is_no_fault() -> None:
    """A stale or duplicate capture that was refused changed nothing."""
    history = History([granted("a", 1), granted("b", 2)])
    writes = [write("b", "p1", 2), write("a", "p1", 1, "stale"), write("b", "p1", 2, "duplicate")]
    assert checker.check(history, writes, {"p1"}) == []


def test_a_settled_payment_must_have_been_captured() -> None:
    """A message that was taken off the queue for nothing is money that nobody collects."""
    assert checker.check(History(), [], {"p1"}) == ["payment p1 was settled and never captured"]


def test_a_message_that_nobody_settles_comes_again() -> None:
    """The queue delivers at least once: after its time the same message is delivered to the next who asks."""
    messages = Messages(("k",), Rng(1, "messages"), visible_again_ns=10)
    first = messages.take(0)
    assert first in [messages.take(11) for _ in range(30)]


def test_what_the_ledger_of_a_live_run_decided_is_read_back_in_its_order(tmp_path: Path) -> None:
    """Two workers share one file: captures in the order of the transactions with whoever had the token, then the floors; and the
    control takes a payment twice."""
    mix = mixes.make(FENCED, Rng(1, "mix"))
    shops = [live.shop_for(mix, tmp_path, 7), live.shop_for(mix, tmp_path, 7)]
    one, other = (shop.books for shop in shops if shop is not None)
    assert one.capture("k", "p1", 1) == "ok"
    assert other.capture("k", "p1", 2) == "duplicate"
    assert other.raise_floor("k", 2) == "ok"
    assert one.capture("k", "p2", 1) == "stale"
    assert other.is_captured("p1")
    assert one.close() == other.close() == []
    history = History([granted("a", 1), granted("b", 2)])
    writes, unbalanced = live.decided(mix, tmp_path, history)
    assert [(each.process, each.payment, each.fence) for each in writes] == [
        ("a", "p1", 1),
        ("b", "", 2),
    ]
    assert unbalanced == []
    assert checker.check(history, writes, ()) == []

    control = mixes.make(UNFENCED, Rng(1, "mix"))
    apart = tmp_path / "control"
    apart.mkdir()
    shop = live.shop_for(control, apart, 7)
    assert shop is not None
    for fence in (1, 2):
        assert shop.books.capture("k", "p1", fence) == "ok"
    writes, _ = live.decided(control, apart, history)
    assert "captured 2 times" in checker.check(history, writes, ())[0]
