"""The checker decides as trying every order does, and it rejects what no lock could have answered."""

from __future__ import annotations

import pytest
from lock_histories import KEY, brute_force, honest, honest_of_kinds, tampered

from holdfast_jepsen.checker import linearizability, orders
from holdfast_jepsen.history import Belief, History, Lease, Operation, Seen
from holdfast_jepsen.sim.rng import Rng


def answer(history: History) -> str:
    answers = {verdict.answer for verdict in linearizability.check(history)}
    return "illegal" if "illegal" in answers else "unknown" if "unknown" in answers else "ok"


def acquire(session: str, called: int, returned: int | None, token: int = 0) -> Operation:
    result = "ok" if token else "unknown"
    return Operation(session, "acquire", (KEY,), session, called, returned, result, token=token)


def held(called: int, returned: int, holder: int, session: str) -> Operation:
    return Operation("c", "acquire", (KEY,), "c", called, returned, "held",
                     holders=(Seen(holder, session),))  # fmt: skip


def release(session: str, called: int, returned: int | None, token: int, result="ok") -> Operation:
    return Operation(session, "release", (KEY,), session, called, returned, result, token=token)


def reader(session: str, called: int, returned: int, token: int, fence: int) -> Operation:
    each = acquire(session, called, returned, token)
    each.shared, each.fences = True, (fence,)
    return each


def permit(session: str, called: int, returned: int, token: int, limit: int) -> Operation:
    each = acquire(session, called, returned, token)
    each.shared, each.limit = True, limit
    return each


def completed(session: str, called: int, returned: int, token: int, retain: int) -> Operation:
    return Operation(session, "complete", (KEY,), session, called, returned, "ok", token=token,
                     ttl_ns=retain)  # fmt: skip


def already_done(called: int, returned: int, token: int) -> Operation:
    return Operation("d", "acquire", (KEY,), "d", called, returned, "done", done=token)


def test_honest_histories_are_ok() -> None:
    """Whatever a real lock answers is explained, without search being given up."""
    for seed in range(300):
        history = honest(Rng(seed, "honest"), 40)
        assert answer(history) == "ok", seed


def test_it_agrees_with_brute_force() -> None:
    """On small histories, honest and tampered with, the answer is that of trying every order."""
    seen = {"ok": 0, "illegal": 0}
    for seed in range(1500):
        rng = Rng(seed, "brute force")
        history = honest(rng, 5)
        if rng.chance(0.8):
            history = tampered(rng, history)
        expected = "ok" if brute_force(history) else "illegal"
        assert answer(history) == expected, seed
        seen[expected] += 1
    assert min(seen.values()) > 300, seen


def test_it_agrees_with_brute_force_on_every_kind_of_hold() -> None:
    """The same for readers, writers, semaphores and completed work on one key."""
    seen = {"ok": 0, "illegal": 0}
    for seed in range(3_000):
        rng = Rng(seed, "kinds")
        history = honest_of_kinds(rng, 6)
        if rng.chance(0.8):
            history = tampered(rng, history)
        expected = "ok" if brute_force(history) else "illegal"
        assert answer(history) == expected, seed
        seen[expected] += 1
    assert min(seen.values()) > 600, seen


def test_honest_histories_of_every_kind_are_ok() -> None:
    """Whatever a real lock answers to readers, writers, permits and completions is explained."""
    for seed in range(300):
        assert answer(honest_of_kinds(Rng(seed, "honest kinds"), 60)) == "ok", seed


LONG = [Lease("a", 0, 1_000_000), Lease("b", 0, 1_000_000)]

REJECTED = {
    "two holders": [acquire("a", 0, 1, 1), acquire("b", 2, 3, 2)],
    "a token twice": [acquire("a", 0, 1, 1), release("a", 2, 3, 1), acquire("b", 4, 5, 1)],
    "a falling token": [acquire("a", 0, 1, 2), release("a", 2, 3, 2), acquire("b", 4, 5, 1)],
    "refused while free": [
        acquire("a", 0, 1, 1), release("a", 2, 3, 1), held(4, 5, 1, "a"),
    ],
    "refused for a holder of the future": [held(0, 1, 1, "a"), acquire("a", 2, 3, 1)],
    "held by nobody who asked": [held(0, 1, 7, "x")],
    "released, and yet lost": [acquire("a", 0, 1, 1), release("a", 2, 3, 1, "not_held")],
    "released without being held": [release("a", 0, 1, 1)],
    "a writer beside a reader": [reader("a", 0, 1, 1, 1), acquire("b", 2, 3, 2)],
    "a reader beside a writer": [acquire("a", 0, 1, 1), reader("b", 2, 3, 2, 2)],
    "a phase that nobody began": [reader("a", 0, 1, 2, 1)],
    "a phase after its end": [
        reader("a", 0, 1, 1, 1), release("a", 2, 3, 1), reader("b", 4, 5, 2, 1),
    ],
    "one permit too many": [permit("a", 0, 1, 1, 1), permit("b", 2, 3, 2, 1)],
    "permits of two limits": [permit("a", 0, 1, 1, 2), permit("b", 2, 3, 2, 3)],
    "granted though it is done": [
        acquire("a", 0, 1, 1), completed("a", 2, 3, 1, 1000), acquire("b", 4, 5, 2),
    ],
    "done by nobody": [acquire("a", 0, 1, 1), already_done(2, 3, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_what_no_lock_would_answer_is_rejected(name: str) -> None:
    """Each of these histories breaks one rule of the model."""
    assert answer(History(list(REJECTED[name]), list(LONG))) == "illegal"


def test_a_lease_may_end_but_never_early() -> None:
    """Another grant is right once the lease may have ended, and wrong before."""
    for at, expected in ((98, "illegal"), (101, "ok")):
        history = History(
            [acquire("a", 0, 1, 1), acquire("b", at - 1, at, 2)], [Lease("a", 0, 100)]
        )
        assert answer(history) == expected


def test_a_result_is_not_forgotten_early() -> None:
    """A grant after a completion is right once the result may have been forgotten, and wrong before."""
    for at, expected in ((1_000, "illegal"), (1_004, "ok")):
        history = History(
            [acquire("a", 0, 1, 1), completed("a", 2, 3, 1, 1_010), acquire("b", at - 1, at, 2)],
            list(LONG),
        )
        assert answer(history) == expected


def test_a_completion_without_an_answer_may_be_told_of() -> None:
    """It explains a refusal that names it, from its call on and not before; and a grant, if it never happened."""
    history = [acquire("a", 0, 1, 1), completed("a", 2, 3, 1, 9), already_done(5, 6, 1)]
    history[1].result, history[1].returned = "unknown", None
    assert answer(History(history, list(LONG))) == "ok"
    assert answer(History([*history, acquire("b", 90, 91, 2)], list(LONG))) == "ok"
    assert answer(History([*history[:2], acquire("b", 5, 6, 2)], list(LONG))) == "ok"
    history[1].called = 7
    assert answer(History(history, list(LONG))) == "illegal"


def test_an_unacknowledged_grant_may_be_seen_by_others() -> None:
    """An acquire whose answer was lost explains a refusal, from its call on and not before."""
    assert answer(History([acquire("a", 0, None), held(5, 6, 9, "a")])) == "ok"
    assert answer(History([acquire("a", 7, None), held(5, 6, 9, "a")])) == "illegal"


def test_a_search_that_is_given_up_is_unknown() -> None:
    """Unknown is never taken for ok."""
    history = honest(Rng(1, "long"), 200)
    assert {v.answer for v in linearizability.check(history, steps_max=10)} == {"unknown"}


def test_tokens_are_compared_over_all_keys() -> None:
    """A grant that was known before another was asked for has the smaller token."""
    one = Operation("a", "acquire", ("x",), "a", 0, 1, "ok", token=5)
    other = Operation("b", "acquire", ("y",), "b", 2, 3, "ok", token=4)
    assert orders.token_order(History([one, other]))
    other.called = 1
    assert not orders.token_order(History([one, other]))


def test_two_beliefs_in_one_key_are_a_violation() -> None:
    """Clients must not trust a hold at the same moment, whatever the log says."""
    one, other = Belief("a", "k", 1, 0, 100), Belief("b", "k", 2, 100, 200)
    assert not orders.beliefs(History(beliefs=[one, other]))
    other.begun = 99
    assert len(orders.beliefs(History(beliefs=[one, other]))) == 1


def test_a_long_history_of_one_hot_key_is_decided_quickly() -> None:
    """2,000 operations, a fifth of them with lost answers: the search does not explode."""
    verdict = linearizability.check(honest(Rng(3, "hot"), 2_000))[0]
    assert verdict.answer == "ok"
    assert verdict.steps < 100_000


def waited(session: str, called: int, queued: int | None, token: int) -> Operation:
    """An acquire that waited since `queued`, and was answered long afterwards."""
    each = acquire(session, called, 1000, token)
    each.queued = queued
    return each


def test_whoever_came_later_must_not_be_granted_first() -> None:
    """b asked when a certainly waited already, and got the smaller token, whether or not b waited itself."""
    for other in (waited("b", 21, None, 4), waited("b", 21, 30, 4)):
        history = History([waited("a", 10, 20, 5), other])
        assert len(orders.first_come_first_served(history)) == 1


def test_a_race_of_two_waiters_may_end_either_way() -> None:
    """Whoever asked before the place of the other was known may have come first; other keys are other queues; and who was not
    seen waiting is not judged."""
    elsewhere = waited("b", 21, 30, 4)
    elsewhere.keys = ("another",)
    for other in (waited("b", 5, 30, 4), waited("b", 20, 25, 4), waited("b", 21, 30, 6), elsewhere):
        assert orders.first_come_first_served(History([waited("a", 10, 20, 5), other])) == []
    nobody_knows = History([waited("a", 10, None, 5), waited("b", 21, 30, 4)])
    assert orders.first_come_first_served(nobody_knows) == []


def test_a_request_for_several_keys_waits_in_every_queue() -> None:
    """b overtakes a on the second of its keys."""
    several = waited("a", 10, 20, 5)
    several.keys = ("first", KEY)
    assert orders.first_come_first_served(History([several, waited("b", 21, 30, 4)]))
