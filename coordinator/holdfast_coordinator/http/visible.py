"""What one identity is shown of what there is.

Rule: a key that an identity may not read is not in anything that it gets, wherever it would stand: beside the keys of a waiter or a
record, as the key of another hold, in a page. Pure. That it may read the key it asks about is `rights`' business, before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from holdfast_coordinator.access import Right

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast_coordinator.access import Identity
    from holdfast_coordinator.http.history_views import ExplanationView
    from holdfast_coordinator.http.views import BlockedView, LockState, QueuedView

Item = TypeVar("Item")
Queued = TypeVar("Queued", bound="QueuedView")
Page = tuple[list[Item], str | None]


def keys_shown(identity: Identity, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if identity.may(Right.READ, key)]


def lock_shown(identity: Identity, lock: LockState) -> LockState:
    if identity.may_all(Right.READ):
        return lock
    waiters = [_queued(identity, waiter) for waiter in lock.waiters]
    return msgspec.structs.replace(lock, waiters=waiters)


def explanation_shown(identity: Identity, explanation: ExplanationView) -> ExplanationView:
    if identity.may_all(Right.READ):
        return explanation
    waiters = []
    for waiter in explanation.waiters:
        waits_for = [each for each in waiter.waits_for if identity.may(Right.READ, each.key)]
        waiters.append(msgspec.structs.replace(_queued(identity, waiter), waits_for=waits_for))
    return msgspec.structs.replace(explanation, waiters=waiters)


def cycle_shown(identity: Identity, cycle: Sequence[BlockedView]) -> list[BlockedView]:
    """Of a circle, the steps at keys that the caller may lock or read; its own step is among them."""
    return [
        step
        for step in cycle
        if identity.may(Right.ACQUIRE, step.key) or identity.may(Right.READ, step.key)
    ]


def page_within(
    prefixes: Sequence[str],
    after: str | None,
    limit: int,
    look: Callable[[str, str | None, int], Page[Item]],
    key_of: Callable[[Item], str],
) -> Page[Item]:
    """One page of what is under `prefixes` (sorted, none within another), as if it were one list. `look(prefix, after, limit)`
    gives a page of one of them. The second value continues the list, None at its end."""
    found: list[Item] = []
    for number, prefix in enumerate(prefixes):
        items, following = look(prefix, after, limit - len(found))
        found += items
        if following is not None:
            return found, following
        if len(found) == limit:
            more = any(look(each, after, 1)[0] for each in prefixes[number + 1 :])
            return found, key_of(found[-1]) if more else None
    return found, None


def _queued(identity: Identity, waiter: Queued) -> Queued:
    return msgspec.structs.replace(waiter, keys=keys_shown(identity, waiter.keys))
