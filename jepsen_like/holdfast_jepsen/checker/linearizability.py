"""Is there an order of the operations, within their times, in which one lock would have answered so?

The search is that of Wing and Gong, with Lowe's memory of (set of placed operations, state), as Porcupine does it.
The model of one key: nobody holds it, or one token alone, or some share it; or its work is done. Tokens rise.

    acquire ok(t)      nobody holds the key (whoever did may have ended) and its work is not done; t is its next token
    shared ok(t, f)    f = t: likewise, and a phase begins; otherwise f began the phase that goes on
    permit ok(t)       fewer than the limit surely hold it, all of them permits of the same limit
    acquire held(h)    exactly h hold it (others may have ended); refusals are checked too
    acquire done(t)    t completed the work
    release ok(t)      t holds it; afterwards it does not
    complete ok(t)     t holds it alone; afterwards the work is done, and not forgotten before its time
    ... not_held       t does not hold it
    unknown            may take effect at any time after its call, or never: see `_inferred` and `Timeline`
    wait ended         says nothing about the lock

A hold may also end by itself: hidden, at most once, from a moment on that `Timeline` computes: the client's send
time of the last acknowledged lease plus its length, less the drift; or an unanswered release, a close, or a cancel of it. One
search then proves mutual exclusion, the order of tokens, and that no lease ended early.

Requests over several keys are checked on each of their keys; tokens are compared over all keys by `orders`.

Rule: pure. `illegal` is a proof, `ok` is a proof; `unknown` says that the search was given up, and is a failure.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from holdfast_jepsen.history import Operation, Seen

if TYPE_CHECKING:
    from holdfast_jepsen.history import History

DRIFT = 0.01
"""Clocks of nodes are trusted to run true within this part; what the client's margin is for."""
STEPS_MAX = 2_000_000
"""Of one key: some seconds."""
NEVER = 1 << 62
UNTOLD = -1
"""The fence of a shared grant whose answer nobody got."""

ENDS = ("end", "cancel", "told over")
"""What is asked of no key: it may end a hold at any time after its call, answered or not; or says that it has ended."""

Answer = Literal["ok", "illegal", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one key. `culprits`: the operations that no order could place, in the longest try. `order`: one that explains all."""

    answer: Answer
    key: str
    steps: int = 0
    why: str = ""
    culprits: tuple[Operation, ...] = ()
    order: tuple[Operation, ...] = ()


@dataclass(slots=True)
class Timeline:
    """From when on each hold may have ended without an answered release."""

    by_token: dict[int, int] = field(default_factory=dict)
    by_session: dict[str, int] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    """From when on the completed work of each token may be forgotten."""
    repeats: set[int] = field(default_factory=set)
    """Answered releases (by `id`) of holds that a close of their session, or a cancel, may have released already: what is released
    is acknowledged again, so they do not show that it was held."""

    @classmethod
    def of(cls, history: History) -> Timeline:
        """Of a whole history."""
        timeline = cls()
        sessions, tokens = timeline.by_session, timeline.by_token
        for lease in history.leases:
            end = lease.sent + int(lease.ttl_ns * (1 - DRIFT))
            sessions[lease.session] = max(sessions.get(lease.session, 0), end)
        given_up = _GivenUp.of(history)
        for session, at in given_up.closed.items():
            sessions[session] = min(sessions.get(session, 0), at)
        for each in history.operations:
            if each.kind == "acquire" and each.token:
                tokens[each.token] = min(sessions.get(each.session, 0), given_up.at(each))
            for seen in each.holders:
                end = given_up.any_cancelled.get(seen.session, NEVER)
                tokens.setdefault(seen.token, min(sessions.get(seen.session, 0), end))
        for each in history.operations:
            is_ok = each.kind == "release" and each.result == "ok"
            if is_ok and given_up.at(each) < (each.returned or 0):
                timeline.repeats.add(id(each))
            is_open = each.result == "unknown" or id(each) in timeline.repeats
            if each.kind in ("release", "complete") and is_open:
                tokens[each.token] = min(tokens.get(each.token, NEVER), each.called)
            if each.kind == "complete":
                until = each.called + int(each.ttl_ns * (1 - DRIFT))
                timeline.done[each.token] = min(timeline.done.get(each.token, NEVER), until)
        return timeline


@dataclass(slots=True)
class _GivenUp:
    """What clients themselves have asked to end besides by releases: sessions that they closed, acquires that they cancelled."""

    closed: dict[str, int] = field(default_factory=dict)
    cancelled: dict[tuple[str, int], int] = field(default_factory=dict)
    any_cancelled: dict[str, int] = field(default_factory=dict)
    """By session: the first. It may have been that of any hold of which nobody knows under which name it was granted."""
    requests: dict[int, int] = field(default_factory=dict)
    """Under which name each token was granted, where the grant was answered."""

    @classmethod
    def of(cls, history: History) -> _GivenUp:
        made = cls()
        for each in history.operations:
            session, about, called = each.session, (each.session, each.request), each.called
            if each.kind == "end":
                made.closed[session] = min(made.closed.get(session, NEVER), called)
            elif each.kind == "cancel":
                made.cancelled[about] = min(made.cancelled.get(about, NEVER), called)
                made.any_cancelled[session] = min(made.any_cancelled.get(session, NEVER), called)
            elif each.kind == "acquire" and each.token:
                made.requests[each.token] = each.request
        return made

    def at(self, operation: Operation) -> int:
        """From when on the hold of this operation's token may have ended so."""
        session, request = operation.session, self.requests.get(operation.token)
        cancelled = (
            self.any_cancelled.get(session, NEVER)
            if request is None
            else self.cancelled.get((session, request), NEVER)
        )
        return min(self.closed.get(session, NEVER), cancelled)


def check(history: History, *, steps_max: int = STEPS_MAX) -> list[Verdict]:
    """One verdict for each key."""
    timeline = Timeline.of(history)
    by_key: dict[str, list[Operation]] = {key: [] for key in history.keys()}  # noqa: SIM118 - no dict
    for operation in history.operations:
        if id(operation) in timeline.repeats:
            continue
        if operation.kind not in ENDS and operation.result != "refused":
            for key in operation.keys:
                by_key[key].append(operation)
    return [_Search(key, each, timeline, steps_max).run() for key, each in by_key.items()]


State = tuple[tuple[int, ...], int, int, int]
"""(the tokens that hold the key, rising; how: 0 alone, the fence of a shared phase, or minus the limit; the token that
completed its work, or 0; the highest token so far). A hold that may have ended by itself stays in until something shows it."""

FREE: State = ((), 0, 0, 0)


class _Entry:
    """A call or a return in the list of what is not yet placed."""

    __slots__ = ("at", "before", "call", "next", "number", "operation", "partner")

    def __init__(self, at: int, number: int, operation: Operation | None, *, call: bool) -> None:
        self.at = at
        self.number = number
        self.operation = operation
        self.call = call
        self.partner: _Entry | None = None
        self.before: _Entry | None = None
        self.next: _Entry | None = None


class _Search:
    def __init__(
        self, key: str, operations: list[Operation], timeline: Timeline, steps_max: int
    ) -> None:
        self._key = key
        self._timeline = timeline
        self._steps_max = steps_max
        self._operations = [each for each in operations if not _says_nothing(each)]
        self._unseen_from = min(map(_called, filter(_is_unknown_shared, operations)), default=NEVER)
        self._inferred = _inferred(key, operations)
        self._operations += self._inferred
        self._tokens = sorted(
            each.token
            for each in self._operations
            if each.kind == "acquire" and each.result == "ok"
        )
        self._shown_by = _shown_by(self._operations)
        self._head = _Entry(-1, -1, None, call=False)
        self._left = self._link()
        self._returns = [
            (each.returned, number)
            for number, each in enumerate(self._operations)
            if each.returned is not None
        ]
        self._returns.sort()

    def _link(self) -> int:
        entries: list[_Entry] = []
        mandatory = 0
        for number, operation in enumerate(self._operations):
            call = _Entry(operation.called, number, operation, call=True)
            entries.append(call)
            if operation.returned is not None:
                mandatory += 1
                call.partner = _Entry(operation.returned, number, operation, call=False)
                entries.append(call.partner)
        # At the same instant calls stand first: then the two are concurrent.
        entries.sort(key=lambda entry: (entry.at, not entry.call, entry.number))
        before = self._head
        for entry in entries:
            before.next, entry.before = entry, before
            before = entry
        return mandatory

    def run(self) -> Verdict:
        if len(set(self._tokens)) != len(self._tokens):
            twice = next(t for t in self._tokens if self._tokens.count(t) > 1)
            return Verdict("illegal", self._key, 0, f"token {twice} was granted twice")
        for each in self._inferred:
            if each.called == NEVER:
                why = f"token {each.token} holds it, which nobody had asked for"
                return Verdict("illegal", self._key, 0, why, (each,))
        state = FREE
        placed, left, steps, first_return = 0, self._left, 0, 0
        seen: set[tuple[int, State]] = set()
        stack: list[tuple[_Entry, State, int, bool]] = []
        best: tuple[int, _Entry | None] = (left, None)
        entry = self._head.next
        returns = self._returns
        while left:
            steps += 1
            if steps > self._steps_max:
                return Verdict("unknown", self._key, steps, "the search was given up")
            if entry is not None and entry.call:
                while first_return < len(returns) and placed >> returns[first_return][1] & 1:
                    first_return += 1
                frontier = returns[first_return][0] if first_return < len(returns) else NEVER
                after = self._step(state, entry.operation, frontier or 0, placed)
                if after is None:
                    entry = entry.next
                    continue
                with_it = placed | 1 << entry.number
                if (with_it, after) in seen:
                    entry = entry.next
                    continue
                seen.add((with_it, after))
                # What changes nothing is placed as early as it can be: no order is lost by it.
                stack.append((entry, state, first_return, after == state))
                state, placed = after, with_it
                left -= entry.partner is not None
                _lift(entry)
                entry = self._head.next
                continue
            # A return of what could not be placed, or the end of the list: take back the last placement.
            if left < best[0] or best[1] is None:
                best = left, entry
            is_forced = True
            while is_forced:
                if not stack:
                    return self._illegal(steps, best[1])
                entry, state, first_return, is_forced = stack.pop()
                placed &= ~(1 << entry.number)
                left += entry.partner is not None
                _unlift(entry)
            assert entry is not None
            entry = entry.next
        order = tuple(entry.operation for entry, *_ in stack if entry.operation is not None)
        return Verdict("ok", self._key, steps, order=order)

    def _illegal(self, steps: int, stuck: _Entry | None) -> Verdict:
        culprits = (stuck.operation,) if stuck is not None and stuck.operation is not None else ()
        why = "no order explains the answers"
        if culprits:
            each = culprits[0]
            why += f"; stuck at {each.kind} {each.result} token {each.token or each.done or each.holders} of {each.process}"
        return Verdict("illegal", self._key, steps, why, culprits)

    # The model.

    def _step(
        self, state: State, operation: Operation | None, frontier: int, placed: int
    ) -> State | None:
        """The state after it; None: a lock would not have answered so. `frontier`: the first return of all that
        is not placed, so that nothing later than it has to wait. `placed`: the bits of what is placed."""
        assert operation is not None
        if operation.kind == "acquire":
            if operation.result == "held":
                return self._seen_held(state, operation, frontier)
            if operation.result == "done":
                return state if state[2] == operation.done else None
            return self._granted(state, operation, frontier, placed)
        holders, how, done, highest = state
        token = operation.token
        if token not in holders:
            return None if operation.result == "ok" else state
        if operation.result != "ok" and self._ends_from(token) > frontier:
            return None
        if operation.kind == "complete" and operation.result == "ok":
            return ((), 0, token, highest) if holders == (token,) and how == 0 else None
        left = tuple([each for each in holders if each != token])
        # A shared phase may go on without anybody whom we know: see `_granted`.
        return left, how if left or how > 0 else 0, done, highest

    def _seen_held(self, state: State, operation: Operation, frontier: int) -> State | None:
        holders, how, done, highest = state
        seen = tuple(sorted(each.token for each in operation.holders))
        if not set(seen) <= set(holders):
            return None
        gone = set(holders) - set(seen)
        if any(self._ends_from(each) > frontier for each in gone):
            return None
        return seen, how, done, highest

    def _granted(
        self, state: State, operation: Operation, frontier: int, placed: int
    ) -> State | None:
        holders, how, done, highest = state
        token = operation.token
        place = bisect_right(self._tokens, highest)
        if place >= len(self._tokens) or self._tokens[place] != token:
            return None
        if done and self._timeline.done.get(done, 0) > frontier:
            return None
        # A hold lasts if it cannot have ended yet, or if something that is not yet placed shows it alive.
        certain = sum(
            self._ends_from(each) > frontier or self._shown_by.get(each, 0) & ~placed > 0
            for each in holders
        )
        if operation.limit and how == -operation.limit and holders:
            return ((*holders, token), how, 0, token) if certain < operation.limit else None
        fence = _fence(self._key, operation)
        # An unknown shared acquire that nobody saw may have joined, and held on when all others had gone.
        goes_on = how > 0 and (bool(holders) or self._unseen_from <= frontier)
        if fence == UNTOLD:
            # Nobody joined a phase that it began, so it may as well have joined the one before.
            fence = how if goes_on else token
        if operation.shared and not operation.limit and fence != token:
            return ((*holders, token), how, 0, token) if goes_on and how == fence else None
        if certain:
            return None
        return (token,), -operation.limit if operation.limit else fence, 0, token

    def _ends_from(self, holder: int) -> int:
        return self._timeline.by_token.get(holder, 0)


def _inferred(key: str, operations: list[Operation]) -> list[Operation]:
    """Unknown acquires that must have been granted, because a refusal named their token. All the others may as well
    never have happened: nobody saw them, and a hold that nobody saw can have ended before anything that it would
    forbid.

    The n-th such token of a session lies between the call of that session's n-th unknown acquire (tokens rise, so n
    acquires had been called by then) and the first refusal that names it.
    """
    known = {each.token for each in operations if each.kind == "acquire" and each.token}
    asked: dict[str, list[int]] = {}
    for each in operations:
        if each.kind == "acquire" and each.result == "unknown":
            asked.setdefault(each.session, []).append(each.called)
    opened = {_fence(key, each) for each in operations}
    named: dict[int, tuple[Seen, int]] = {}
    for each in operations:
        for seen in each.holders:
            if seen.token not in known:
                before = named.get(seen.token, (seen, NEVER))[1]
                named[seen.token] = seen, min(before, each.returned or NEVER)
    grants = []
    for token, (seen, returned) in sorted(named.items()):
        calls = asked.get(seen.session, [])
        called = min(calls) if calls else NEVER
        if calls:
            calls.remove(called)
        grant = Operation(
            seen.session, "acquire", (key,), seen.session, called, returned, "ok", token
        )
        grant.shared, grant.limit = seen.shared, seen.limit
        if seen.shared and not seen.limit:
            grant.fences = (token if token in opened else UNTOLD,)
        grants.append(grant)
    seen_shared = {token for token, (seen, _) in named.items() if seen.shared and not seen.limit}
    grants += _inferred_openers(key, operations, known | set(named), seen_shared)
    return grants + _inferred_completions(key, operations)


def _inferred_openers(
    key: str, operations: list[Operation], known: set[int], seen: set[int]
) -> list[Operation]:
    """Unknown shared acquires that must have begun a phase, because somebody joined it. Whose they were is not told; but the n-th
    token of all unknown shared acquires (with those `seen` in refusals) was granted after n of them had been called."""
    joined: dict[int, int] = {}
    for each in operations:
        fence = _fence(key, each)
        if fence > 0 and fence not in known:
            joined[fence] = min(joined.get(fence, NEVER), each.returned or NEVER)
    asked = sorted(map(_called, filter(_is_unknown_shared, operations)))
    openers = []
    for number, token in enumerate(sorted(seen | set(joined))):
        if token in joined:
            called = asked[number] if number < len(asked) else NEVER
            opener = Operation("?", "acquire", (key,), "?", called, joined[token], "ok", token)
            opener.shared, opener.fences = True, (token,)
            openers.append(opener)
    return openers


def _shown_by(operations: list[Operation]) -> dict[int, int]:
    """For each token the bits of the operations that find it holding the key."""
    shown: dict[int, int] = {}
    for number, each in enumerate(operations):
        ends = each.kind in ("release", "complete") and each.result == "ok"
        tokens = [each.token] if ends else [seen.token for seen in each.holders]
        for token in tokens:
            shown[token] = shown.get(token, 0) | 1 << number
    return shown


def _fence(key: str, operation: Operation) -> int:
    return operation.fences[operation.keys.index(key)] if operation.fences else 0


def _inferred_completions(key: str, operations: list[Operation]) -> list[Operation]:
    """Completions without an answer that must have happened, because a refusal tells of them."""
    told: dict[int, int] = {}
    for each in operations:
        if each.result == "done":
            told[each.done] = min(told.get(each.done, NEVER), each.returned or NEVER)
    return [
        replace(each, keys=(key,), returned=told[each.token], result="ok")
        for each in operations
        if each.kind == "complete" and each.result == "unknown" and each.token in told
    ]


def _is_unknown_shared(each: Operation) -> bool:
    return each.kind == "acquire" and each.result == "unknown" and each.shared and not each.limit


def _called(each: Operation) -> int:
    return each.called


def _says_nothing(operation: Operation) -> bool:
    """An unknown release is in the timeline; for an unknown acquire see `_inferred`."""
    is_unknown = operation.result in ("unknown", "pending")
    return is_unknown or (operation.result == "held" and not operation.holders)


def _lift(call: _Entry) -> None:
    for each in (call, call.partner):
        if each is not None:
            assert each.before is not None
            each.before.next = each.next
            if each.next is not None:
                each.next.before = each.before


def _unlift(call: _Entry) -> None:
    for each in (call.partner, call):
        if each is not None:
            assert each.before is not None
            each.before.next = each
            if each.next is not None:
                each.next.before = each
