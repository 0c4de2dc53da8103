"""The checker decides as trying every order does, and it rejects what no lock could have answered."""

from __future__ import annotations

import pytest
from lock_histories import KEY, brute_force, honest, tampered

from holdfast_jepsen.checker import linearizability, orders
from holdfast_jepsen.history import Belief, History, Lease, Operation
from holdfast_jepsen.sim.rng import Rng


def answer(history: History) -> str:
    answers = {verdict.answer for verdict in linearizability.check(history)}
    return "illegal" if "illegal" in answers else "unknown" if "unknown" in answers else "ok"


def acquire(session: str, called: int, returned: int | None, token: int = 0) -> Operation:
    result = "ok" if token else "unknown"
    return Operation(session, "acquire", (KEY,), session, called, returned, result, token=token)


def held(called: int, returned: int, holder: int, session: str) -> Operation:
    return Operation("c", "acquire", (KEY,), "c", called, returned, "held", holder=holder,
                     holder_session=session)  # fmt: skip


def release(session: str, called: int, returned: int | None, token: int, result="ok") -> Operation:
    return Operation(session, "release", (KEY,), session, called, returned, result, token=token)


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
