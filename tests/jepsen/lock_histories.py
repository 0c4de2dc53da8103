"""Small histories of one lock, and the slow, obvious way to judge them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast_jepsen.checker.linearizability import NEVER, Timeline
from holdfast_jepsen.history import History, Lease, Operation
from holdfast_jepsen.sim.rng import Rng

KEY = "k"


@dataclass(frozen=True)
class Item:
    """Something that takes effect between two times; `token` alone: a hold that ends by itself."""

    called: int
    returned: int
    operation: Operation | None
    token: int = 0


def brute_force(history: History) -> bool:
    """Whether any order at all explains the answers: every order is tried."""
    timeline = Timeline.of(history)
    items, tokens = [], set()
    for each in history.operations:
        if each.kind == "end" or each.result == "refused":
            continue
        if each.kind == "release" and each.result == "unknown":
            continue
        if each.result == "held" and not each.holder:
            continue
        items.append(Item(each.called, NEVER if each.returned is None else each.returned, each))
        tokens |= {each.token, each.holder} - {0}
    items += [Item(timeline.by_token.get(t, 0), NEVER, None, t) for t in sorted(tokens)]
    granted = {o.token for o in history.operations if o.kind == "acquire" and o.token}
    named = {
        o.holder: o.holder_session
        for o in history.operations
        if o.result == "held" and o.holder and o.holder not in granted
    }
    return _explain(items, 0, 0, named)


def _explain(items: list[Item], holder: int, highest: int, named: dict[int, str]) -> bool:
    if all(item.returned == NEVER for item in items):
        return True
    first_return = min(item.returned for item in items)
    for place, item in enumerate(items):
        if item.called > first_return:
            continue
        rest = items[:place] + items[place + 1 :]
        for after in _effects(item, holder, highest, named):
            if _explain(rest, *after, named):
                return True
    return False


def _effects(item: Item, holder: int, highest: int, named: dict[int, str]) -> list[tuple[int, int]]:
    each = item.operation
    if each is None:
        return [(0, highest)] if holder == item.token else []
    if each.kind == "acquire" and each.result == "ok":
        return [(each.token, each.token)] if not holder and each.token > highest else []
    if each.result == "held":
        return [(holder, highest)] if holder == each.holder else []
    if each.kind == "acquire":
        if holder:
            return []
        return [(t, t) for t, s in named.items() if s == each.session and t > highest]
    if each.result == "ok":
        return [(0, highest)] if holder == each.token else []
    return [(holder, highest)] if holder != each.token else []


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
                          holder=holder, holder_session=holder_session)
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
                                  now + rng.below(25), "held", holder=token, holder_session=session)
                    )  # fmt: skip
                holder = 0
            elif lease.ttl_ns == 20:  # so short that it may have ended before anything else happens
                now += 60
                holder = 0
    return history


def tampered(rng: Rng, history: History) -> History:
    """The same with one answer or time changed."""
    operations = [replace(each) for each in history.operations]
    each = rng.choice(operations)
    what = rng.below(5)
    if what == 0 and each.token:
        each.token = rng.between(1, 6)
    elif what == 1 and each.holder:
        each.holder = rng.between(1, 6)
    elif what == 2 and each.returned is not None:
        each.called, each.returned = each.called + 60, each.returned + 60
    elif what == 3 and each.kind == "release" and each.returned is not None:
        each.result = "not_held" if each.result == "ok" else "ok"
    elif what == 4:
        operations.remove(each)
    return History(operations, list(history.leases))
