"""Who of this client holds what: the books behind "a hold belongs to whoever acquired it".

Rule: bookkeeping only. A holder is an object (a task, or what stands for a thread) and is compared by identity. Nothing here
asks the cluster, and nothing here decides whether a hold is still good; the grant does.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING

from holdfast.errors import NotAcquired
from holdfast.views import Holder

if TYPE_CHECKING:
    from holdfast.grant import Grant
    from holdfast.session import Session
    from holdfast.terms import Terms


log: logging.Logger = logging.getLogger("holdfast")


class Holds:
    """The holds of one client, by key."""

    def __init__(self) -> None:
        # Shared holds of several tasks stand on one key: by key, then by token.
        self._by_key: dict[str, dict[int, tuple[Grant, Session]]] = {}
        self._counts: dict[object, int] = {}  # grants of each holder that has any
        self._plain: set[int] = set()  # tokens that were got through `acquire_lock`
        self._tasks: weakref.WeakSet[asyncio.Task[object]] = weakref.WeakSet()

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._by_key)

    def add(self, grant: Grant, session: Session) -> None:
        """The grant is held, through `session`."""
        self._counts[grant._holder] = self._counts.get(grant._holder, 0) + 1
        for key in grant.keys:
            self._by_key.setdefault(key, {})[grant.token] = (grant, session)

    def mark_plain(self, grant: Grant) -> None:
        """It was got through `acquire_lock`, so that it may be released by name."""
        self._plain.add(grant.token)
        holder = grant._holder
        if isinstance(holder, asyncio.Task) and holder not in self._tasks:
            # Once for each task: one that lives long may acquire a million times.
            self._tasks.add(holder)
            holder.add_done_callback(self.report_forgotten)

    def report_forgotten(self, holder: object) -> None:
        """A task or thread has ended: nobody else may release by name what it still holds."""
        held = [grant for on_key in self._by_key.values() for grant, _ in on_key.values()]
        for grant in dict.fromkeys(held):
            if grant._holder is holder and grant.token in self._plain and grant.remaining() > 0.0:
                log.warning(
                    "a task or thread ended without releasing token %d, which is renewed until its client is closed",
                    grant.token,
                )

    def plain(self, key: str, holder: object) -> Grant | None:
        """What `holder` got through `acquire_lock`; None: nothing. From any thread: what others hold on the key comes and goes
        meanwhile, so a copy is looked through, which is made in one step."""
        for grant, _ in list(self._by_key.get(key, {}).values()):
            if grant._holder is holder and grant.token in self._plain:
                return grant
        return None

    def forget(self, grant: Grant) -> Session | None:
        """Out of the books; the session it belonged to, None if it was not in them."""
        session = None
        self._plain.discard(grant.token)
        for key in grant.keys:
            on_key = self._by_key.get(key, {})
            found = on_key.pop(grant.token, None)
            if found is not None:
                session = found[1]
                if not on_key:
                    del self._by_key[key]
        if session is not None:
            left = self._counts.pop(grant._holder) - 1
            if left:
                self._counts[grant._holder] = left
        return session

    def is_holding(self, holder: object) -> bool:
        """Whether it has anything that was not given back."""
        return holder in self._counts

    def re_entered(self, keys: tuple[str, ...], terms: Terms, holder: object) -> Grant | None:
        """The one good grant of `holder` that covers all of `keys` in the same way, entered once more; None: there is none."""
        for grant in self._of(keys[0], holder):
            is_alike = (grant.mode, grant.limit) == (terms.mode, terms.limit)
            if is_alike and set(keys) <= set(grant.keys):
                grant._entries += 1
                return grant
        return None

    def refuse_reentry(
        self, keys: tuple[str, ...], terms: Terms, holder: object, owner: str | None
    ) -> None:
        """The same holder would wait for itself: raises `NotAcquired`, as held, at once. Shared beside shared is for the cluster to
        judge."""
        for key in keys:
            for grant in self._of(key, holder):
                if grant.mode == terms.mode == "shared":
                    continue
                itself = Holder(grant.token, None, owner, grant.mode, grant.remaining())
                raise NotAcquired(
                    f"{key!r} is held by the caller itself",
                    keys=keys,
                    code="held",
                    holders=(itself,),
                )

    def _of(self, key: str, holder: object) -> list[Grant]:
        found = self._by_key.get(key, {}).values()
        return [each for each, _ in found if each._holder is holder and each.remaining() > 0.0]
