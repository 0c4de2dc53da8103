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


log: logging.Logger = logging.getLogger("holdfast")


class Holds:
    """The holds of one client, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[Grant, Session]] = {}
        self._plain: set[int] = set()  # tokens that were got through `acquire_lock`
        self._tasks: weakref.WeakSet[asyncio.Task[object]] = weakref.WeakSet()

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._by_key)

    def add(self, grant: Grant, session: Session) -> None:
        """The grant is held, through `session`."""
        for key in grant.keys:
            self._by_key[key] = (grant, session)

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
        for grant, _ in self._by_key.values():
            if grant._holder is holder and grant.token in self._plain and grant.remaining() > 0.0:
                log.warning(
                    "a task or thread ended without releasing token %d, which is renewed until its client is closed",
                    grant.token,
                )

    def plain(self, key: str, holder: object) -> Grant | None:
        """What `holder` got through `acquire_lock`; None: nothing."""
        grant, _ = self._by_key.get(key, (None, None))
        if grant is None or grant._holder is not holder or grant.token not in self._plain:
            return None
        return grant

    def forget(self, grant: Grant) -> Session | None:
        """Out of the books; the session it belonged to, None if it was not in them."""
        session = None
        self._plain.discard(grant.token)
        for key in grant.keys:
            found = self._by_key.get(key)
            if found is not None and found[0] is grant:
                session = found[1]
                del self._by_key[key]
        return session

    def forget_all_of(self, session: Session) -> None:
        """The session ended, and what it held with it."""
        for grant in [each for each, owner in self._by_key.values() if owner is session]:
            self.forget(grant)

    def re_entered(self, keys: tuple[str, ...], holder: object) -> Grant | None:
        """The one good grant of `holder` that covers all of `keys`, entered once more; None: there is none."""
        grants = [self._of(key, holder) for key in keys]
        grant = grants[0]
        if grant is None or any(each is not grant for each in grants):
            return None
        grant._entries += 1
        return grant

    def refuse_reentry(self, keys: tuple[str, ...], holder: object, owner: str | None) -> None:
        """The same holder would wait for itself: raises `NotAcquired`, as held, at once."""
        for key in keys:
            grant = self._of(key, holder)
            if grant is None:
                continue
            itself = Holder(grant.token, None, owner, grant.mode, grant.remaining())
            raise NotAcquired(
                f"{key!r} is held by the caller itself", keys=keys, code="held", holders=(itself,)
            )

    def _of(self, key: str, holder: object) -> Grant | None:
        grant, _ = self._by_key.get(key, (None, None))
        if grant is None or grant._holder is not holder or grant.remaining() <= 0.0:
            return None
        return grant
