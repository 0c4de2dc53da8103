"""The queue of the demo: at least once, in whatever way the workers fail. Time is an argument."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.demo.message_queue import MessageQueue
from holdfast_coordinator.demo.messages import Message


def message(number: int, customer: str = "c") -> Message:
    return Message(f"p-{number}", customer, "collect", 5, "EUR")


@pytest.fixture
def queue() -> MessageQueue:
    return MessageQueue([message(1), message(2)], visibility_seconds=5.0)


def test_messages_come_in_order_and_an_ack_settles_them(queue: MessageQueue) -> None:
    """The plain way: take, ack, done."""
    for number in (1, 2):
        delivery = queue.take("w", 0.0)
        assert delivery is not None
        assert (delivery.message.payment, delivery.attempt) == (f"p-{number}", 1)
        assert queue.ack(delivery.number, 1.0)
    assert queue.take("w", 1.0) is None
    assert queue.is_done
    assert queue.redelivered == 0


def test_a_message_that_is_not_acked_in_time_goes_to_another_first(queue: MessageQueue) -> None:
    """time 0: taken and kept; time 5: visible again, before what has never been out; the old delivery's ack means nothing."""
    old = queue.take("frozen", 0.0)
    assert old is not None
    assert queue.next_change_at() == 5.0
    again = queue.take("other", 5.0)
    assert again is not None
    assert (again.index, again.attempt) == (old.index, 2)
    assert not queue.ack(old.number, 5.1)
    assert not queue.is_done
    assert queue.ack(again.number, 5.2)
    assert (queue.settled, queue.redelivered) == (1, 1)


def test_an_ack_after_the_time_is_too_late(queue: MessageQueue) -> None:
    """Even if nobody has taken the message yet: it is another's."""
    delivery = queue.take("w", 0.0)
    assert delivery is not None
    assert not queue.ack(delivery.number, 5.0)
    assert queue.settled == 0


def test_a_message_given_back_rests_for_a_while(queue: MessageQueue) -> None:
    """A held key is not asked for in a tight loop."""
    first = queue.take("w", 0.0)
    second = queue.take("w", 0.0)
    assert first is not None
    assert second is not None
    assert queue.nack(first.number, 1.0, 0.5)
    assert not queue.nack(first.number, 1.0, 0.5)
    assert queue.take("w", 1.4) is None
    assert queue.next_change_at() == 1.5
    again = queue.take("w", 1.5)
    assert again is not None
    assert again.index == first.index


def test_what_a_dead_worker_had_is_delivered_again_at_once(queue: MessageQueue) -> None:
    """And what another has stays with it."""
    lost, kept = queue.take("dead", 0.0), queue.take("alive", 0.0)
    assert lost is not None
    assert kept is not None
    assert queue.worker_gone("dead", 1.0) == 1
    again = queue.take("alive", 1.0)
    assert again is not None
    assert again.index == lost.index
    assert queue.ack(kept.number, 1.0)


def test_a_rejected_message_is_settled_with_its_reason(queue: MessageQueue) -> None:
    """A refund of nothing does not go round for ever."""
    delivery = queue.take("w", 0.0)
    assert delivery is not None
    assert queue.reject(delivery.number, 0.0, "nothing to refund")
    assert not queue.reject(delivery.number, 0.0, "again")
    assert queue.rejected == {delivery.index: "nothing to refund"}
    assert queue.settled == 1


def test_it_knows_what_is_still_asked_for() -> None:
    """Duplicates count until each is settled; and whether there is work besides one key."""
    queue = MessageQueue([message(1), message(1), message(2, "other")], visibility_seconds=5.0)
    assert queue.open_messages(("p-1", "collect")) == 2
    assert queue.has_work_besides("payments/other/collect")
    for _ in range(2):
        delivery = queue.take("w", 0.0)
        assert delivery is not None
        queue.ack(delivery.number, 0.0)
    assert queue.open_messages(("p-1", "collect")) == 0
    assert not queue.has_work_besides("payments/other/collect")
    assert queue.has_work_besides(None)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_no_message_is_ever_lost(seed: int, size: int) -> None:
    """Workers that ack, give back, die and dawdle at random: in the end every message is settled exactly once."""
    rng = random.Random(seed)  # noqa: S311 - a schedule
    queue = MessageQueue([message(number) for number in range(size)], visibility_seconds=2.0)
    now, held, settled = 0.0, [], []
    for step in range(2000):
        if queue.is_done:
            break
        now += rng.random()
        delivery = queue.take(rng.choice("ab"), now)
        if delivery is not None:
            held.append(delivery)
        if not held:
            continue
        delivery = held.pop(rng.randrange(len(held)))
        fate = rng.random() if step < 1000 else 0.0
        if fate < 0.4:
            settled += [delivery.index] * queue.ack(delivery.number, now)
        elif fate < 0.6:
            queue.nack(delivery.number, now, rng.random())
        elif fate < 0.7:
            queue.worker_gone(rng.choice("ab"), now)
    assert queue.is_done
    assert sorted(settled) == list(range(size))
