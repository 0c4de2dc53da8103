"""The ledger workload: captures through the fence are right under pauses, and the control shows what they would be without."""

from __future__ import annotations

import pytest

from holdfast_jepsen.checker import ledger as checker
from holdfast_jepsen.history import History
from holdfast_jepsen.history.history import Operation
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.run import Variant, run
from holdfast_jepsen.workloads.ledger import FENCED, UNFENCED, Messages, Write

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
