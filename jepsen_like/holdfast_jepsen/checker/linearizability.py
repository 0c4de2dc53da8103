"""Is there an order of the operations, within their times, in which a single lock would have answered so?

The search is that of Wing and Gong, with Lowe's memory of (set of placed operations, state), as Porcupine does it.
The model of one key: nobody or one token holds it; tokens rise.

    acquire ok(t)      the key is free (or the hold before may have ended), t is the next token of all
    acquire held(t')   t' holds it; refusals are checked too
    release ok(t)      t holds it; afterwards nobody
    release not_held   t does not hold it
    unknown            may take effect at any time after its call, or never: see `_inferred` and `Timeline`
    wait ended         says nothing about the lock

A hold may also end by itself: hidden, at most once, from a moment on that `Timeline` computes: the client's send
time of the last acknowledged lease plus its length, less the drift; or an unanswered release, close or cancel. One
search then proves mutual exclusion, the order of tokens, and that no lease ended early.

Requests over several keys are checked on each of their keys; tokens are compared over all keys by `orders`.

Rule: pure. `illegal` is a proof, `ok` is a proof; `unknown` says that the search was given up, and is a failure.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast_jepsen.history import Operation

if TYPE_CHECKING:
    from holdfast_jepsen.history import History

DRIFT = 0.01
"""Clocks of nodes are trusted to run true within this part; what the client's margin is for."""
STEPS_MAX = 2_000_000
"""Of one key: some seconds."""
NEVER = 1 << 62

Answer = Literal["ok", "illegal", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one key. `culprits`: the operations that no order could place, in the longest try."""

    answer: Answer
    key: str
    steps: int = 0
    why: str = ""
    culprits: tuple[Operation, ...] = ()


@dataclass(slots=True)
class Timeline:
    """From when on each hold may have ended without an answered release."""

    by_token: dict[int, int] = field(default_factory=dict)
    by_session: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, history: History) -> Timeline:
        """Of a whole history."""
        timeline = cls()
        sessions = timeline.by_session
        for lease in history.leases:
            end = lease.sent + int(lease.ttl_ns * (1 - DRIFT))
            sessions[lease.session] = max(sessions.get(lease.session, 0), end)
        closed: dict[str, int] = {}
        for each in history.operations:
            if each.kind == "end":
                closed[each.session] = min(closed.get(each.session, NEVER), each.called)
        for session, at in closed.items():
            sessions[session] = min(sessions.get(session, 0), at)
        tokens = timeline.by_token
        for each in history.operations:
            if each.kind == "acquire" and each.token:
                tokens[each.token] = sessions.get(each.session, 0)
            elif each.holder:
                tokens.setdefault(each.holder, sessions.get(each.holder_session, 0))
        for each in history.operations:
            if each.kind == "release" and each.result == "unknown":
                tokens[each.token] = min(tokens.get(each.token, NEVER), each.called)
        return timeline


def check(history: History, *, steps_max: int = STEPS_MAX) -> list[Verdict]:
    """One verdict for each key."""
    timeline = Timeline.of(history)
    by_key: dict[str, list[Operation]] = {key: [] for key in history.keys()}  # noqa: SIM118 - no dict
    for operation in history.operations:
        if operation.kind != "end" and operation.result != "refused":
            for key in operation.keys:
                by_key[key].append(operation)
    return [_Search(key, each, timeline, steps_max).run() for key, each in by_key.items()]


State = tuple[int, int]
"""(the token that holds the key, or 0; the highest token so far)"""


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
        self._inferred = _inferred(key, operations)
        self._operations += self._inferred
        self._tokens = sorted(
            each.token
            for each in self._operations
            if each.kind == "acquire" and each.result == "ok"
        )
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
        state: State = (0, 0)
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
                after = self._step(state, entry.operation, frontier or 0)
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
        return Verdict("ok", self._key, steps)

    def _illegal(self, steps: int, stuck: _Entry | None) -> Verdict:
        culprits = (stuck.operation,) if stuck is not None and stuck.operation is not None else ()
        why = "no order explains the answers"
        if culprits:
            each = culprits[0]
            why += f"; stuck at {each.kind} {each.result} token {each.token or each.holder} of {each.process}"
        return Verdict("illegal", self._key, steps, why, culprits)

    # The model.

    def _step(self, state: State, operation: Operation | None, frontier: int) -> State | None:
        """The state after it; None: a lock would not have answered so. `frontier`: the first return of all that
        is not placed, so that nothing later than it has to wait."""
        assert operation is not None
        holder, highest = state
        if operation.kind == "acquire":
            if operation.result == "held":
                return state if holder == operation.holder else None
            if holder and self._ends_from(holder) > frontier:
                return None
            place = bisect_right(self._tokens, highest)
            if place < len(self._tokens) and self._tokens[place] == operation.token:
                return operation.token, operation.token
            return None
        if operation.result == "ok":
            return (0, highest) if holder == operation.token else None
        if holder != operation.token:
            return state
        return (0, highest) if self._ends_from(holder) <= frontier else None

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
    named: dict[int, tuple[str, int]] = {}
    for each in operations:
        if each.result == "held" and each.holder and each.holder not in known:
            before = named.get(each.holder, ("", NEVER))[1]
            named[each.holder] = each.holder_session, min(before, each.returned or NEVER)
    grants = []
    for token, (session, returned) in sorted(named.items()):
        calls = asked.get(session, [])
        called = min(calls) if calls else NEVER
        if calls:
            calls.remove(called)
        grants.append(
            Operation(session, "acquire", (key,), session, called, returned, "ok", token=token)
        )
    return grants


def _says_nothing(operation: Operation) -> bool:
    """An unknown release is in the timeline; for an unknown acquire see `_inferred`."""
    is_unknown = operation.result in ("unknown", "pending")
    return is_unknown or (operation.result == "held" and not operation.holder)


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
