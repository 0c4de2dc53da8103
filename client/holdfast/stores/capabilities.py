"""What each store can and cannot promise, as data; `docs/capabilities.md` and `holdfast capabilities` are made from it.

Rule: a promise is what holds after a crash and a restart of the store itself, configured as its documentation advises; whatever
needs more than that is not promised. Values of one capability are ordered, weakest first: who requires one is content with a
stronger. It knows no store's code, so it costs nothing to ask.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Final

from holdfast.errors import Unsuitable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Ordered(Enum):
    """Values with a strength: the order in which they are written, weakest first."""

    @property
    def strength(self) -> int:
        """0 for the weakest."""
        return list(type(self)).index(self)


class Fencing(Ordered):
    """How far tokens can be relied on to rise."""

    NONE = "none"
    UNTIL_LOSS = "until_loss"  # over all keys, until the store loses data; then they may repeat
    PER_KEY = "per_key"  # for ever, for each key by itself
    GLOBAL = "global"  # for ever, over all keys


class Durability(Ordered):
    """What an acknowledged lock survives."""

    PROCESS = "process"  # ends with the process that keeps it
    CONFIGURED = "configured"  # as the server is configured: often it loses the last second
    DISK = "disk"  # a crash and a power cut of the machine, not the loss of its disk
    MAJORITY = "majority"  # the loss of any minority of machines with their disks


class Failover(Ordered):
    """What happens to acknowledged locks when another machine takes over."""

    MAY_LOSE = "may_lose"  # the one that takes over may not know the last grants: two holders
    NONE = "none"  # nobody takes over: no lock is granted until the store is back
    KEEPS = "keeps"  # nothing acknowledged is lost


class Fairness(Ordered):
    """Who gets a lock that is released."""

    NONE = "none"  # whoever comes first
    QUEUE = "queue"  # who has waited longest


class LeaseClock(Ordered):
    """The clock that ends leases."""

    WALL = "wall"  # of the server: setting it forward ends leases early, setting it back lengthens them
    STEADY = "steady"  # nothing that is done to a wall clock matters


class SeveralKeys(Ordered):
    """Whether several keys can be had at once."""

    NO = "no"
    ALL_OR_NONE = "all_or_none"


class Waiting(Ordered):
    """How a waiter learns that it is its turn."""

    POLLING = "polling"  # asks again, at growing intervals
    PUSHED = "pushed"  # is told


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The promises of one store. `notes`: capability -> a sentence on what stands behind its value here."""

    store: str
    fencing: Fencing
    durability: Durability
    failover: Failover
    fairness: Fairness
    clock: LeaseClock
    several_keys: SeveralKeys
    waiting: Waiting
    notes: Mapping[str, str] = field(default_factory=dict, compare=False)

    def values(self) -> dict[str, Ordered]:
        """Capability -> value, in the order of the table."""
        return {name: getattr(self, name) for name in NAMES}


NAMES: Final = tuple(
    each.name for each in fields(Capabilities) if each.name not in ("store", "notes")
)
"""The capabilities, as they are named in `require` and in the table."""

_KINDS: Final[dict[str, type[Ordered]]] = {
    "fencing": Fencing,
    "durability": Durability,
    "failover": Failover,
    "fairness": Fairness,
    "clock": LeaseClock,
    "several_keys": SeveralKeys,
    "waiting": Waiting,
}

CLUSTER: Final = Capabilities(
    store="cluster",
    fencing=Fencing.GLOBAL,
    durability=Durability.MAJORITY,
    failover=Failover.KEEPS,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.STEADY,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.PUSHED,
    notes={
        "durability": "A majority has it on disk (fdatasync) before it is acknowledged.",
        "failover": "Losing the leader costs one election and no lease.",
        "clock": "Time is part of the replicated log, counted on CLOCK_BOOTTIME of the leader.",
    },
)
MEMORY: Final = Capabilities(
    store="memory",
    fencing=Fencing.UNTIL_LOSS,
    durability=Durability.PROCESS,
    failover=Failover.NONE,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.STEADY,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.PUSHED,
    notes={
        "fencing": "Tokens begin at 1 again in the next process; `memory:///path/to/file` keeps them rising.",
        "durability": "Threads and event loops of one process; another process has locks of its own.",
    },
)
MEMORY_WITH_FILE: Final = Capabilities(
    store="memory with a file",
    fencing=Fencing.GLOBAL,
    durability=Durability.PROCESS,
    failover=Failover.NONE,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.STEADY,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.PUSHED,
    notes={
        "fencing": "The file counts the processes that used it; their number is the upper part of every token.",
        "durability": "Locks end with the process. A second process that opens the file is refused.",
    },
)
SQLITE: Final = Capabilities(
    store="sqlite",
    fencing=Fencing.GLOBAL,
    durability=Durability.DISK,
    failover=Failover.NONE,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.WALL,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.POLLING,
    notes={
        "durability": "Processes of one machine; never a file on a network drive.",
        "fairness": "In the order of arrival; a waiter that died is passed over when its session ends.",
    },
)
POSTGRESQL: Final = Capabilities(
    store="postgresql",
    fencing=Fencing.GLOBAL,
    durability=Durability.DISK,
    failover=Failover.MAY_LOSE,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.WALL,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.PUSHED,
    notes={
        "durability": "With `synchronous_commit` on, which is the default of the server.",
        "failover": "An asynchronous standby that is promoted may lack the last grants, and repeat their tokens.",
        "fairness": "In the order of arrival; a waiter that died is passed over when its session ends.",
        "waiting": "LISTEN/NOTIFY with the driver psycopg; it looks by itself, too, every few seconds.",
    },
)
REDIS: Final = Capabilities(
    store="redis",
    fencing=Fencing.UNTIL_LOSS,
    durability=Durability.CONFIGURED,
    failover=Failover.MAY_LOSE,
    fairness=Fairness.QUEUE,
    clock=LeaseClock.WALL,
    several_keys=SeveralKeys.ALL_OR_NONE,
    waiting=Waiting.PUSHED,
    notes={
        "fencing": "The counter is lost or set back whenever the server loses data.",
        "durability": "One primary. `appendonly yes` with `appendfsync always` keeps what was acknowledged.",
        "failover": "Replication is asynchronous: a replica that is promoted may lack the last grants.",
        "fairness": "In the order of arrival; a waiter that died is passed over when its session ends.",
        "waiting": "Pub/sub; it looks by itself, too, every few seconds.",
    },
)

ALL: Final = (MEMORY, MEMORY_WITH_FILE, SQLITE, POSTGRESQL, REDIS, CLUSTER)
"""In the order in which people usually outgrow them."""


def parse_requirements(require: str | Sequence[str]) -> dict[str, Ordered]:
    """`"fencing=global, clock=steady"`, or a sequence of such pairs -> capability -> the weakest value that will do.

    Raises `ValueError` for a capability or a value that does not exist.
    """
    parts = require.split(",") if isinstance(require, str) else list(require)
    wanted: dict[str, Ordered] = {}
    for part in filter(None, (each.strip() for each in parts)):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        kind = _KINDS.get(name)
        if kind is None or not equals:
            raise ValueError(
                f"a requirement is capability=value with one of {', '.join(NAMES)}; not {part!r}"
            )
        try:
            wanted[name] = kind(value)
        except ValueError:
            known = ", ".join(str(each.value) for each in kind)
            raise ValueError(f"{name} is one of {known}; not {value!r}") from None
    return wanted


def check(capabilities: Capabilities, require: str | Sequence[str]) -> None:
    """Raises `Unsuitable`, in a sentence, if the store promises less; `ValueError` as `parse_requirements`."""
    has = capabilities.values()
    for name, least in parse_requirements(require).items():
        if has[name].strength < least.strength:
            note = capabilities.notes.get(name)
            because = f" {note}" if note else ""
            met_by = ", ".join(each.store for each in meeting(name, least)) or "no store"
            raise Unsuitable(
                f"{name}={least.value} is required, and {capabilities.store} gives only {name}={has[name].value}."
                f"{because} It is given by: {met_by}."
            )


def meeting(name: str, least: Ordered) -> tuple[Capabilities, ...]:
    """The stores that promise at least this."""
    return tuple(each for each in ALL if each.values()[name].strength >= least.strength)


def as_rows(stores: Iterable[Capabilities]) -> list[list[str]]:
    """A table: the first row names the stores, then one row for each capability."""
    columns = list(stores)
    rows = [["", *(each.store for each in columns)]]
    rows += [[name, *(str(each.values()[name].value) for each in columns)] for name in NAMES]
    return rows


def as_markdown() -> str:
    """The whole of `docs/capabilities.md`."""
    head, *rows = as_rows(ALL)
    lines = [
        "# What each store can promise",
        "",
        "<!-- Made by `python -m holdfast.stores.capabilities`; a test fails when it is not current. -->",
        "",
        "The address that `connect` is given decides where the locks are kept. The calls are the same everywhere; the promises",
        "are not. A promise is what holds after a crash and a restart of the store itself.",
        '`connect(..., require="fencing=global")` refuses a store that gives less; `holdfast capabilities URL` shows this for one.',
        "",
        "| " + " | ".join(["capability", *head[1:]]) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "## What the values mean",
        "",
        "Weakest first. Who requires one is content with a stronger.",
        "",
        *(f"* **{name}**: {'; '.join(_MEANINGS[name])}." for name in NAMES),
        "",
        "## What stands behind them",
        "",
    ]
    for each in ALL:
        lines += [f"* **{each.store}**"]
        lines += [f"  * {name}: {note}" for name, note in each.notes.items()]
    return "\n".join(lines) + "\n"


_MEANINGS: Final[dict[str, tuple[str, ...]]] = {
    "fencing": (
        "`none`",
        "`until_loss`: tokens rise over all keys until the store loses data, then they may repeat",
        "`per_key`: they rise for ever, for each key by itself",
        "`global`: they rise for ever, over all keys",
    ),
    "durability": (
        "`process`: locks end with the process that keeps them",
        "`configured`: as the server is configured, often without the last second",
        "`disk`: a crash and a power cut, not the loss of the disk",
        "`majority`: the loss of any minority of machines with their disks",
    ),
    "failover": (
        "`may_lose`: who takes over may not know the last grants, so there may be two holders",
        "`none`: nobody takes over, so no lock is granted until the store is back",
        "`keeps`: nothing acknowledged is lost",
    ),
    "fairness": ("`none`: whoever comes first", "`queue`: who has waited longest"),
    "clock": (
        "`wall`: the server's wall clock; setting it forward ends leases early",
        "`steady`: nothing that is done to a wall clock matters",
    ),
    "several_keys": ("`no`", "`all_or_none`: several keys under one token, or none of them"),
    "waiting": ("`polling`: a waiter asks again", "`pushed`: a waiter is told"),
}

if __name__ == "__main__":
    print(as_markdown(), end="")  # noqa: T201 - a program: `python -m holdfast.stores.capabilities > docs/capabilities.md`
