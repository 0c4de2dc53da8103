"""What a live run asks of a network: addresses for the nodes, links that can be cut and slowed, and proof that they were.

Rule: a link has a direction. A cut is silent, as a lost cable is: nobody is told, and what is sent stays unanswered. Two ways to
have one: `namespaces` (root, the kernel's own network) and `proxies` (anybody, TCP through this process).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Link = tuple[str, str]
"""(sender, receiver): names of nodes, or `CLIENTS`."""
CLIENTS = "clients"
"""Where every client is: one end of the links to the nodes."""


class Unavailable(Exception):
    """This machine cannot do it; the message says what is missing."""


class Network(Protocol):
    """See the module. `async with` sets it up and takes it down, whatever happens in between."""

    kind: str
    """For people: `namespaces`, `proxies`."""

    def addresses(self, reader: str) -> Mapping[str, tuple[str, str]]:
        """Node to (http, raft), as the node `reader` has to know them: its own are where it listens."""
        ...

    def http(self, node: str) -> str:
        """Where clients find a node: host:port."""
        ...

    def inside(self, node: str) -> Sequence[str]:
        """What stands before the command of a node, so that it runs in its own place."""
        ...

    def check(self, kinds: Iterable[str]) -> None:
        """Raises `Unavailable` if one of these kinds of faults cannot be made."""
        ...

    async def cut(self, links: Sequence[Link]) -> None:
        """Nothing arrives over these any more."""
        ...

    async def mend(self, links: Sequence[Link]) -> None:
        """Something does again."""
        ...

    async def slow(self, node: str, milliseconds: int) -> str:
        """What this node sends arrives about so much later, or in another way late; 0: as before. What was done, for people."""
        ...

    async def lose(self, node: str, percent: int) -> str:
        """So much of what this node sends is lost; 0: as before. What was done, for people."""
        ...

    async def passes(self, link: Link) -> bool:
        """Whether something that is sent now arrives. The proof that a fault is there, and that it is gone."""
        ...

    async def disturbed(self, node: str) -> int:
        """How many pieces of what this node sent were delayed or lost since `slow` or `lose`."""
        ...
