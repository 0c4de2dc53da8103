"""Random numbers of our own: the same on every interpreter and version, in independent named streams.

Rule: nothing in the simulator draws from anything else. The generator is SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Rng:
    """One stream. `stream` names it: a draw more in one stream changes no other."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, stream: str = "") -> None:
        digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def bits(self) -> int:
        """64 random bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def random(self) -> float:
        """0 <= x < 1; the name that the kernel asks for."""
        return (self.bits() >> 11) / 9007199254740992.0

    def uniform(self, low: float, high: float) -> float:
        """low <= x < high."""
        return low + (high - low) * self.random()

    def below(self, count: int) -> int:
        """0 <= n < count."""
        return self.bits() % count

    def between(self, low: int, high: int) -> int:
        """low <= n <= high."""
        return low + self.bits() % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[self.bits() % len(items)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different ones, in random order."""
        rest = list(items)
        return [rest.pop(self.bits() % len(rest)) for _ in range(min(count, len(rest)))]
