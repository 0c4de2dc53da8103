"""The resource's half of a lock: remember the highest fence of every key, and refuse whoever comes with a lower one.

The rule: a floor never goes down. Whoever writes presents the fence of its grant; the guard moves the floor of the key up to
it, or raises `Stale`. A lock alone cannot protect a resource, however good it is:

    time 0  worker A is granted the key with fence 33, and stalls (a long pause, a frozen machine)
    time 1  A's lease ends; worker B is granted the key with fence 34, and writes
    time 2  A wakes up in the middle of its write, without having had a chance to look at a clock

Only the resource sees A and B meet. It must compare, in the same transaction as the write.

This module holds the rule and a guard in memory (for tests, and for a resource that lives in one process). Beside it:

    sql.py          the guard for whoever uses SQLAlchemy
    dbapi.py        the guard for whoever uses psycopg or sqlite3 as they are
    postgres.py     a trigger that refuses the writes of code that forgot to ask a guard
    idempotency.py  the name of a payment for a provider outside, which never looks at a fence

None of them knows the cluster: a fence is a number, whoever hands it out. docs/fencing.md tells how to use them.
"""

from __future__ import annotations

import logging
import threading
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from holdfast import wire
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "REFUSED_TOTAL",
    "MemoryGuard",
    "Stale",
    "checked_fence",
    "checked_keys",
    "refusals_told",
]

log: Final = logging.getLogger("holdfast")

REFUSED_TOTAL: Final = "holdfast_fence_refused_total"
"""What the counter of refused writes is called. Every guard takes `on_refused`, which is where it is counted up; it has no label,
since a key is nobody's label. With prometheus-client: `on_refused=lambda stale: counter.inc()`."""


class Stale(HoldfastError):
    """A later holder of the key has been here: the write was refused and changed nothing.

    What to do: stop working on this message, and do not repeat the write, under any fence. The later holder has done it, or
    will.
    """

    def __init__(self, key: str, fence: int, highest: int) -> None:
        """`fence` is the one presented, `highest` the highest that the resource has seen for `key`."""
        super().__init__(
            f"stale: presented fence {fence}, but fence {highest} has already been seen"
        )
        self.key = key
        self.fence = fence
        self.highest = highest

    def __reduce__(self) -> tuple[type[Stale], tuple[str, int, int]]:
        """Errors cross process pools; the default would lose two of the three arguments."""
        return type(self), (self.key, self.fence, self.highest)


def checked_fence(fence: int) -> int:
    """Return `fence` if it is one.

    Raises `TypeError` for anything but an integer, `None` above all: a lock with several holders has no fence, because no
    remembered-highest check can tell its holders apart. Raises `ValueError` outside 1 to 2**53 - 1.
    """
    if isinstance(fence, bool) or not isinstance(fence, int):
        raise TypeError(
            f"a fence is an integer, not {fence!r}; a lock with several holders has none"
        )
    if not 1 <= fence <= wire.INTEGER_MAX:
        raise ValueError(f"a fence is between 1 and {wire.INTEGER_MAX}, not {fence}")
    return fence


def checked_keys(keys: str | Sequence[str]) -> tuple[str, ...]:
    """Return the distinct keys in the order of their bytes.

    The order is the same for everybody, so two writers with overlapping keys cannot wait for each other in a circle.
    Raises `TypeError` or `ValueError` for what is not a key (1 to 512 bytes of UTF-8 without control characters).
    """
    listed = [keys] if isinstance(keys, str) else list(keys)
    if not 1 <= len(listed) <= wire.KEYS_PER_ACQUIRE_MAX:
        raise ValueError(f"1 to {wire.KEYS_PER_ACQUIRE_MAX} keys are needed, not {len(listed)}")
    for key in listed:
        if not isinstance(key, str):
            raise TypeError(f"a key is a string, not {key!r}")
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            raise ValueError("a key is valid Unicode text") from None
        if not 1 <= length <= wire.KEY_BYTES_MAX:
            raise ValueError(f"a key has 1 to {wire.KEY_BYTES_MAX} bytes, not {length}")
        if any(unicodedata.category(character) == "Cc" for character in key):
            raise ValueError("a key contains no control characters")
    return tuple(sorted(set(listed), key=str.encode))


@contextmanager
def refusals_told(on_refused: Callable[[Stale], object] | None) -> Iterator[None]:
    """Call `on_refused` with a `Stale` that passes by. A callback that fails is logged: the refusal is what the caller must see."""
    try:
        yield
    except Stale as stale:
        if on_refused is not None:
            try:
                on_refused(stale)
            except Exception:
                log.exception("the callback for a refused fence failed")
        raise


class MemoryGuard:
    """The guard without a database: correct between the threads of one process, and forgotten with it.

    For tests, and as the executable definition of what every other guard does. It keeps one number for each key that it has
    ever seen, so it is no home for a resource with endlessly many keys.
    """

    def __init__(self, *, on_refused: Callable[[Stale], object] | None = None) -> None:
        """`on_refused` is called with each refusal, in the thread that is refused."""
        self._on_refused = on_refused
        self._floors: dict[str, int] = {}
        self._mutex = threading.Lock()

    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None:
        """Move the floor of every key up to `fence`, or raise `Stale` and move none."""
        fence = checked_fence(fence)
        wanted = checked_keys(keys)
        with refusals_told(self._on_refused), self._mutex:
            for key in wanted:
                highest = self._floors.get(key, 0)
                if highest > fence:
                    raise Stale(key, fence, highest)
            self._floors.update(dict.fromkeys(wanted, fence))

    def highest(self, key: str) -> int | None:
        """Return the highest fence seen for `key`; None if it was never presented."""
        with self._mutex:
            return self._floors.get(key)
