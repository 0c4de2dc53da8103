"""Small histories of one lock, and the slow, obvious way to judge them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from holdfast_jepsen.checker.linearizability import ENDS, NEVER, Timeline
from holdfast_jepsen.history import History, Lease, Operation, Seen
from holdfast_jepsen.sim.rng import Rng

KEY = "k"


@dataclass(frozen=True)
class Item:
    """Something that takes effect between two times; `token` alone: a hold that ends by itself; `forgets`: a result does."""

    called: int
    returned: int
    operation: Operation | None
    token: int = 0
    forgets: int = 0


Way = Literal["alone", "shared", "permits"]


@dataclass(frozen=True)
class Held:
    """The lock itself: who holds it and how; `fence` of a shared phase, `limit` of permits, the token of completed work."""

    holders: frozenset[int] = frozenset()
    way: Way = "alone"
    fence: int = 0
    limit: int = 0
    done: int = 0
    highest: int = 0

    def without(self, token: int) -> Held:
        return replace(self, holders=self.holders - {token})


def brute_force(history: History) -> bool:
    """Whether any order at all explains the answers: every order is tried."""
    timeline = Timeline.of(history)
    items, tokens, completed = [], set(), set()
    told = {each.done for each in history.operations if each.result == "done"}
    for each in history.operations:
        if each.kind in ENDS or each.result == "refused":
            continue
        if each.kind in ("release", "complete") and each.result == "unknown":
            if each.kind == "complete" and each.token in told:
                items.append(Item(each.called, NEVER, each))
                completed.add(each.token)
            continue
        if each.result == "held" and not each.holders:
            continue
        items.append(Item(each.called, NEVER if each.returned is None else each.returned, each))
        tokens |= {each.token, *(seen.token for seen in each.holders)} - {0}
        if each.kind == "complete":
            completed.add(each.token)
        tokens |= set(each.fences)
        if each.kind == "acquire" and each.result == "unknown":
            items.append(Item(each.called, NEVER, None, _phantom(each)))
    items += [Item(timeline.by_token.get(t, 0), NEVER, None, t) for t in sorted(tokens)]
    items += [Item(timeline.done[t], NEVER, None, forgets=t) for t in sorted(completed)]
    granted = {o.token for o in history.operations if o.kind == "acquire" and o.token}
    named = {
        seen.token: seen
        for o in history.operations
        for seen in o.holders
        if seen.token not in granted
    }
    known = granted | set(named)
    joined = {o.fences[0] for o in history.operations if o.fences} - known
    return _explain(items, Held(), named, joined)


def _explain(items: list[Item], state: Held, named: dict[int, Seen], joined: set[int]) -> bool:
    if all(item.returned == NEVER for item in items):
        return True
    first_return = min(item.returned for item in items)
    for place, item in enumerate(items):
        if item.called > first_return:
            continue
        rest = items[:place] + items[place + 1 :]
        for after in _effects(item, state, named, joined):
            if _explain(rest, after, named, joined):
                return True
    return False


def _effects(item: Item, state: Held, named: dict[int, Seen], joined: set[int]) -> Iterator[Held]:
    each = item.operation
    if each is None:
        if item.token in state.holders:
            yield state.without(item.token)
        if item.forgets and item.forgets == state.done:
            yield replace(state, done=0)
    elif each.kind == "acquire":
        yield from _answers(each, state, named, joined)
    elif each.result == "not_held":
        if each.token not in state.holders:
            yield state
    elif each.token in state.holders:
        if each.kind == "release":
            yield state.without(each.token)
        elif state.way == "alone":
            yield replace(state.without(each.token), done=each.token)


def _answers(
    each: Operation, state: Held, named: dict[int, Seen], joined: set[int]
) -> Iterator[Held]:
    if each.result == "held":
        if state.holders == {seen.token for seen in each.holders}:
            yield state
    elif each.result == "done":
        if state.done == each.done:
            yield state
    elif each.result == "ok":
        fence = each.fences[0] if each.fences else 0
        yield from _grants(state, each.token, each.shared, each.limit, {fence})
    else:  # unknown: whoever was seen with a token of this session may have got it here
        for token, seen in named.items():
            if seen.session == each.session:
                fences = {token, state.fence}
                yield from _grants(state, token, seen.shared, seen.limit, fences)
        if each.shared and not each.limit:  # or may have begun a phase that somebody joined
            for token in joined:
                yield from _grants(state, token, True, 0, {token})
            if state.way == "shared" and state.holders:  # or have joined one, and nobody saw it
                yield replace(state, holders=state.holders | {_phantom(each)})


def _phantom(each: Operation) -> int:
    """A token that nobody ever saw: of this acquire."""
    return -1_000_000 - each.called


def _grants(state: Held, token: int, shared: bool, limit: int, fences: set[int]) -> Iterator[Held]:
    if token <= state.highest or state.done:
        return
    way: Way = "permits" if limit else "shared" if shared else "alone"
    if not state.holders:
        if way != "shared" or token in fences:
            fence = token if way == "shared" else 0
            yield replace(
                state, holders=frozenset({token}), way=way, fence=fence, limit=limit, highest=token
            )
        return
    joins = way == state.way and limit == state.limit and way != "alone"
    if way == "shared":
        joins = joins and state.fence in fences
    if way == "permits":
        joins = joins and len(state.holders) < limit
    if joins:
        yield replace(state, holders=state.holders | {token}, highest=token)


def honest(rng: Rng, count: int) -> History:
    """What clients of a real lock would see: each operation acts at one moment, within its call and return."""
    history = History()
    now, holder, holder_session, token = 0, 0, "", 0
    for number in range(count):
        now += 10
        called, returned = now - rng.below(25), now + rng.below(25)
        session = f"s{number}"
        if holder and rng.chance(0.5):
            lost = rng.chance(0.2)
            result = "unknown" if lost else "ok"
            history.operations.append(
                Operation(holder_session, "release", (KEY,), holder_session, called,
                          None if lost else returned, result, token=holder)
            )  # fmt: skip
            if not lost or rng.chance(0.5):
                holder = 0
        elif holder:
            history.operations.append(
                Operation(session, "acquire", (KEY,), session, called, returned, "held",
                          holders=(Seen(holder, holder_session),))
            )  # fmt: skip
        else:
            token += 1
            holder, holder_session = token, session
            lost = rng.chance(0.2)
            lease = Lease(session, called, rng.choice((20, 400)))
            if not lost:
                history.leases.append(lease)
            history.operations.append(
                Operation(session, "acquire", (KEY,), session, called, None if lost else returned,
                          "unknown" if lost else "ok", token=0 if lost else token)
            )  # fmt: skip
            if lost:  # nobody can release it; somebody may see it, and then it ends by itself
                if rng.chance(0.5):
                    now += 10
                    history.operations.append(
                        Operation("see", "acquire", (KEY,), "see", now - rng.below(25),
                                  now + rng.below(25), "held", holders=(Seen(token, session),))
                    )  # fmt: skip
                holder = 0
            elif lease.ttl_ns == 20:  # so short that it may have ended before anything else happens
                now += 60
                holder = 0
    return history


@dataclass
class Table:
    """A real lock of every kind, and the clients that use it, one moment after the other."""

    rng: Rng
    history: History = field(default_factory=History)
    now: int = 0
    state: Held = field(default_factory=Held)
    sessions: dict[int, str] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    """Tokens whose grant was answered."""
    until: int = 0
    """When completed work is forgotten."""

    def record(self, session: str, kind: str, result: str, **more: object) -> None:
        called, returned = self.now - self.rng.below(25), self.now + self.rng.below(25)
        self.history.operations.append(
            Operation(session, kind, (KEY,), session, called,  # type: ignore[arg-type]
                      None if result == "unknown" else returned, result, **more)  # type: ignore[arg-type]
        )  # fmt: skip

    def end(self, token: int) -> None:
        kind = "complete" if self.state.way == "alone" and self.rng.chance(0.4) else "release"
        lost = self.rng.chance(0.2)
        acts = not lost or self.rng.chance(0.5)
        retain = 120 if kind == "complete" else 0
        result = "unknown" if lost else "ok"
        self.record(self.sessions[token], kind, result, token=token, ttl_ns=retain)
        self.state = self.state.without(
            token
        )  # at the latest by its lease: nobody asks a second time
        if acts and kind == "complete":
            self.state = replace(self.state, done=token)
            self.until = self.now + retain

    def ask(self, number: int) -> None:
        rng, state, session = self.rng, self.state, f"s{number}"
        limit = rng.choice((0, 0, 0, 2)) if not state.holders else state.limit
        shared = bool(limit) or rng.chance(0.6)
        token = state.highest + 1
        if state.done:
            self.record(session, "acquire", "done", done=state.done, shared=shared, limit=limit)
            return
        after = next(_grants(state, token, shared, limit, {token, state.fence}), None)
        if after is None:
            way = {"shared": state.way != "alone", "limit": state.limit}
            seen = tuple(Seen(t, self.sessions[t], **way) for t in sorted(state.holders))  # type: ignore[arg-type]
            self.record(session, "acquire", "held", holders=seen, shared=shared, limit=limit)
            return
        self.state = after
        self.sessions[token] = session
        self.history.leases.append(Lease(session, self.now - 30, 1_000_000))
        lost = rng.chance(0.15)
        self.known |= set() if lost else {token}
        fences = (after.fence,) if shared and not limit and not lost else ()
        self.record(session, "acquire", "unknown" if lost else "ok", token=0 if lost else token,
                    shared=shared, limit=limit, fences=fences)  # fmt: skip
        if lost:  # somebody may see it, or join it; then its lease ends
            self.history.leases.pop()
            if rng.chance(0.3):
                self.now += 10
                self.ask_in_vain(number)
            elif shared and not limit and rng.chance(0.7):
                self.now += 10
                self.ask(number + 1_000)
            if shared and not limit and rng.chance(0.3):
                return  # it holds on for a while, and perhaps nobody sees it
            self.state = self.state.without(token)

    def ask_in_vain(self, number: int) -> None:
        """A writer, refused by whoever is there."""
        way = {"shared": self.state.way != "alone", "limit": self.state.limit}
        seen = tuple(Seen(t, self.sessions[t], **way) for t in sorted(self.state.holders))  # type: ignore[arg-type]
        self.record(f"v{number}", "acquire", "held", holders=seen)


def honest_of_kinds(rng: Rng, count: int) -> History:
    """As `honest`, with readers, permits of a semaphore, and completed work."""
    table = Table(rng)
    for number in range(count):
        table.now += 10
        if table.state.done and table.now > table.until + 30:
            table.state = replace(table.state, done=0)
        holders = sorted(table.state.holders & table.known)
        unseen = sorted(table.state.holders - table.known)
        if unseen and rng.chance(0.3):
            table.state = table.state.without(unseen[0])
        elif holders and rng.chance(0.5):
            table.end(rng.choice(tuple(holders)))
        else:
            table.ask(number)
    return table.history


def tampered(rng: Rng, history: History) -> History:
    """The same with one answer or time changed."""
    operations = [replace(each) for each in history.operations]
    each = rng.choice(operations)
    what = rng.below(5)
    if what == 0 and each.token:
        each.token = rng.between(1, 6)
    elif what == 1 and each.holders:
        each.holders = (replace(each.holders[0], token=rng.between(1, 6)), *each.holders[1:])
    elif what == 2 and each.returned is not None:
        each.called, each.returned = each.called + 60, each.returned + 60
    elif what == 3 and each.kind == "release" and each.returned is not None:
        each.result = "not_held" if each.result == "ok" else "ok"
    elif what == 3 and each.fences:
        each.fences = (rng.between(1, each.token),)
    elif what == 4:
        operations.remove(each)
    return History(operations, list(history.leases))
