"""What happens to clients in a forked child (gunicorn with preload, Celery's prefork pool, multiprocessing).

Rule: the child begins anew and touches nothing of the parent's. Sockets and the selector are shared between the two: closing a
connection in the child would take it out of the PARENT's selector as well, and the parent would wait on it in vain. So what
the child inherits is neither closed nor ever collected, not even when the child's interpreter ends.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Forkable(Protocol):
    """Something that a child has to begin anew."""

    def _forked(self) -> None:
        """In the child, right after the fork, on its only thread."""
        ...


_all: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_kept: Final[list[object]] = []


def on_fork(each: Forkable) -> None:
    """From now on `each` is told in every forked child, for as long as it lives."""
    _all.add(each)


def keep_for_ever(*inherited: object) -> None:
    """Nothing of `inherited` is collected in this process, nor anything that it refers to."""
    _kept.append(inherited)


def _after_fork_in_child() -> None:
    for each in list(_all):
        each._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
