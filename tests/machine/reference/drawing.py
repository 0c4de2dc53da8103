"""What is asked: by Hypothesis, and denser by seeded walks. Few keys, sessions and tasks, so that they collide all the time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from holdfast_coordinator.machine import (
    PLAIN,
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    ForceRelease,
    Limits,
    Malformed,
    OpenSession,
    Operation,
    Quota,
    Release,
    RenewSession,
    Resolve,
    Terms,
    Withdraw,
)

from .model import Model
from .records import ModelRequest

KEYS: Final = ("a", "b", "c", "d")
SESSIONS: Final = ("s1", "s2", "s3")
OWNERS: Final = {"s1": "o1", "s2": "o2"}
IMPLICIT: Final = ("i1", "i2", "i3", "i4")
CONTEXTS: Final = (None, "t1", "t1", "t2")

WIDE: Final = Limits(ttl_ms_min=1, ended_sessions_max=2)
"""No bound but one: few ended ids are remembered, so that a session that died can be opened again soon."""
TIGHT: Final = Limits(
    ttl_ms_min=1,
    keys_held_max=8,
    waiters_max=3,
    waiters_per_key_max=2,
    previous_max=2,
    endings_max=6,
    ended_sessions_max=2,
    done_max=2,
    done_bytes_max=7,
    checkpoints_max=1,
    checkpoint_bytes_max=6,
    trail_blocks_max=1,
    quotas=(
        Quota(prefix="a", holds=1, waiters=2),
        Quota(owner="o1", sessions=1, holds=2, waiters=2),
    ),
)
"""Every bound so low that a walk runs into it."""

SHARED: Final = Terms("shared")
TERMS: Final = (
    *(PLAIN,) * 6,
    *(SHARED,) * 5,
    Terms("shared", 1),
    Terms("shared", 2),
    Terms("shared", 2),
    Terms("exclusive", None, "delay", 60),
    Terms("exclusive", None, "delay", 300),
    Terms("exclusive", None, "delay", 300, True),
    Terms("exclusive", None, "refuse"),
    *(Terms("exclusive", None, "grant", 0, True),) * 3,
    Terms("shared", None, "grant", 0, True),
)
NONSENSE: Final = (
    Terms("exclusive", 2),
    Terms("shared", 0),
    Terms("shared", None, "refuse"),
    Terms("exclusive", None, "delay", 0),
    Terms("exclusive", None, "grant", 5),
)


@dataclass(frozen=True)
class Aimed:
    """An operation that is aimed at something that exists when it is sent; `pick` chooses which."""

    act: str
    pick: int


ACTS: Final = (
    *("release",) * 5,
    "release ended",
    "release forced",
    *("repeat",) * 3,
    *("repeat waiting",) * 2,
    "withdraw",
    "cancel",
    *("complete",) * 3,
    "complete again",
    *("checkpoint",) * 4,
    "checkpoint stale",
    "force one",
    "force all",
    "force again",
    *("resolve",) * 3,
    *("ask closed",) * 3,
    *("want more",) * 6,
    "resolve ended",
)
"""More of what frees a key than of what closes it: otherwise the walk ends before locked doors."""

VALUES: Final = ("", "x", "psp", "é€ok")
RETAINED: Final = (1_000, 1_400)


def aim(model: Model, aimed: Aimed) -> Operation:
    """Make an operation of it; a barrier when there is nothing to aim at."""
    act, pick = aimed.act, aimed.pick
    if act == "keep":
        name = SESSIONS[pick % len(SESSIONS)]
        living = model.session(name) is not None
        return RenewSession(name) if living else OpenSession(name, 900, OWNERS.get(name))
    if act in ("resolve", "ask closed"):
        if not model.closures:
            return Barrier()
        closure = model.closures[pick % len(model.closures)]
        if act == "ask closed":
            delays = [each for each in model.closures if each.by == "delay"]
            closure = delays[0] if delays else closure
            return Acquire((closure.key,), SESSIONS[pick % 3], wait_ms=(0, 0, 900)[pick % 3])
        return Resolve(closure.key, closure.token, "looked into it", "olga")
    wanted = _wanted(model, act)
    return _aimed_at(wanted[pick % len(wanted)], act, pick) if wanted else Barrier()


def _wanted(model: Model, act: str) -> list[ModelRequest]:
    match act:
        case "release" | "complete" | "checkpoint" | "force one" | "force all":
            return model.held()
        case "repeat":
            return [r for r in model.requests if r.name is not None and r.body is not None][-30:]
        case "want more":
            return [r for r in model.held() if r.context is not None]
        case "repeat waiting":
            return [r for r in model.waiting() if r.name is not None]
        case "withdraw":
            return model.waiting()
        case "cancel":
            return [r for r in model.requests if r.name is not None][-30:]
        case "complete again":
            return [r for r in model.requests if r.ended == "completed"][-4:]
        case "force again":
            return [r for r in model.requests if r.floor is not None][-4:]
        case "release forced":
            told = [token for session in model.sessions for token in session.forced]
            return [r for r in model.requests if r.token in told and r.floor is not None]
    return [r for r in model.requests if r.status == "ended"][-30:]


def _aimed_at(request: ModelRequest, act: str, pick: int) -> Operation:
    session, token = request.session, request.token
    key = request.keys[pick % len(request.keys)] if request.keys else "a"
    match act:
        case "withdraw" if request.origin is not None:
            return Withdraw(*request.origin)
        case "cancel" if request.name is not None:
            return Cancel(session, request.name)
        case "want more":
            others = [each for each in KEYS if each not in request.keys] or KEYS
            wanted = (others[pick % len(others)],) if pick % 5 else KEYS[:2]
            terms = (PLAIN, PLAIN, SHARED)[pick % 5 % 3]
            return Acquire(wanted, session, None, 900, None, None, None, request.context, terms)
        case "repeat" | "repeat waiting":
            keys, ttl, owner, context, terms = request.body
            wait = (0, 250, 900)[pick % 3]
            return Acquire(keys, session, ttl, wait, request.name, None, owner, context, terms)
        case "complete" | "complete again":
            return Complete(session, token, VALUES[pick % 4], RETAINED[pick % 2])
        case "checkpoint" | "checkpoint stale":
            return Checkpoint(session, token, VALUES[pick % 4], (None, 1, 2, 3)[pick // 4 % 4])
        case "force one" | "force again":
            key = key if pick % 5 else KEYS[pick % 4]
            return ForceRelease(key, token, "hung", "olga")
        case "force all":
            return ForceRelease(key, None, "hung", "olga")
        case "resolve ended":
            return Resolve(key, token, "looked into it", "olga")
    return Release(session, token)


# --- for Hypothesis ---------------------------------------------------------------------------------------------------

_names = st.sampled_from(SESSIONS)
_anybody = st.sampled_from(SESSIONS + IMPLICIT)
_request_ids = st.one_of(st.none(), st.integers(0, 5), st.sampled_from(("x", "y")))
_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(tuple)
_waits = st.sampled_from((0, 0, 60, 250, 900))
_settled = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 3))
_owners = st.sampled_from((None, None, "o1"))
_contexts = st.sampled_from(CONTEXTS)
_terms = st.sampled_from(TERMS * 4 + NONSENSE)
_tokens = st.integers(0, 12)
_values = st.sampled_from(VALUES)

_invented: st.SearchStrategy[Operation | Aimed] = st.one_of(
    st.builds(OpenSession, _names, st.sampled_from((100, 700, 700, 700)), _owners),
    st.builds(RenewSession, _anybody),
    st.builds(
        Acquire,
        _keys,
        _names,
        st.none(),
        _waits,
        _request_ids,
        _settled,
        _owners,
        _contexts,
        _terms,
    ),
    st.builds(
        Acquire,
        _keys,
        st.sampled_from(IMPLICIT),
        st.just(300),
        _waits,
        st.sampled_from((None, None, "x")),
        st.none(),
        _owners,
        _contexts,
        _terms,
    ),
    st.builds(Release, _anybody, _tokens),
    st.builds(Complete, _anybody, _tokens, _values, st.sampled_from(RETAINED)),
    st.builds(Checkpoint, _anybody, _tokens, _values, st.none() | st.integers(1, 3)),
    st.builds(
        ForceRelease,
        st.sampled_from(KEYS),
        st.one_of(st.none(), _tokens),
        st.just("hung"),
        st.just("olga"),
    ),
    st.builds(Resolve, st.sampled_from(KEYS), _tokens, st.just("seen"), st.just("olga")),
    st.builds(Cancel, _anybody, st.sampled_from((0, 1, 4, "x"))),
    st.builds(CloseSession, _anybody),
    st.just(Barrier()),
    st.just(Malformed("noise")),
)
_acquires = st.builds(
    Acquire,
    _keys,
    _names,
    st.none(),
    _waits,
    _request_ids,
    st.none(),
    st.none(),
    _contexts,
    st.sampled_from(TERMS),
)
_aimed = st.builds(Aimed, st.sampled_from(ACTS), st.integers(0, 50))
_steps = st.sampled_from(("next",) * 20 + ("seen", "gap", "boot"))
sends = st.lists(
    st.tuples(
        st.sampled_from(("n1", "n2")), _steps, st.one_of(_invented, _acquires, _aimed, _aimed)
    ),
    max_size=6,
)


# --- for walks --------------------------------------------------------------------------------------------------------


def walk_operation(rng: random.Random) -> Operation | Aimed:
    """Denser than what Hypothesis invents: most of these find something to act on."""
    keys = tuple(rng.sample(KEYS, rng.choice((1, 1, 1, 2, 3))))
    wait = rng.choice((0, 60, 250, 250, 900, 900))
    name = rng.choice((None, None, rng.choice("xyz"), rng.randrange(40)))
    context = rng.choice(CONTEXTS)
    terms = rng.choice(NONSENSE if rng.random() < 0.02 else TERMS)
    match rng.randrange(21):
        case 0 | 1 | 2 | 3 | 4 | 5:
            settled = rng.randrange(5) if rng.random() < 0.1 else None
            session = rng.choice(SESSIONS)
            return Acquire(keys, session, None, wait, name, settled, None, context, terms)
        case 6 | 7:
            implicit = rng.choice((*IMPLICIT, f"i{rng.randrange(100)}"))
            named = rng.choice((None, None, "x"))
            owner = rng.choice((None, "o1"))
            return Acquire(keys, implicit, 300, wait, named, None, owner, context, terms)
        case 8 | 9 | 10 | 11 | 12:
            return Aimed("keep", rng.randrange(1000))
        case 13:
            match rng.randrange(5):
                case 0:
                    return CloseSession(rng.choice(SESSIONS + IMPLICIT))
                case 1:
                    return Cancel(rng.choice(SESSIONS), rng.choice(("x", rng.randrange(30))))
                case 2:
                    return RenewSession(rng.choice(SESSIONS + IMPLICIT))
            return OpenSession(rng.choice(SESSIONS), rng.choice((900, 300)), "o1")
        case _:
            return Aimed(rng.choice(ACTS), rng.randrange(1000))
