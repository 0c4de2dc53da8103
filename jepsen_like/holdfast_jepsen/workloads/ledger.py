"""Workers that collect payments: what the lock is for. Each message may come twice, and names a customer whose key is locked.

    take a message, acquire the customer's key, raise the ledger's floor, look whether the payment is captured,
    ask the provider (time passes), capture, release, settle the message

Rules:
* The ledger is the real one (`holdfast_ledger`, in a database in memory). A request and its answer take time on the network, so
  that a write can be late; the answer to a commit is lost now and then, and the worker asks again.
* A worker looks at its deadline before it asks the provider, and never between that and the capture: a process can be stopped after
  any look. So the fence has to do what the lock cannot.
* `ledger-without-fence` is the control: the same, with neither fence nor unique payment. It MUST show a double capture.

What is right is judged by `checker.ledger`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

from holdfast_jepsen.sim.world import MILLISECOND

if TYPE_CHECKING:
    from holdfast.client import AsyncClient
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.workloads.client import Client, Hold

FENCED, UNFENCED = "ledger", "ledger-without-fence"
"""The workload, and its control."""
AMOUNT, CURRENCY = 1_200, "EUR"
OPEN_MAX: Final = 3
"""Messages that wait at once: few, so that a duplicate is taken while its twin is worked on."""
TWICE: Final = 0.6
"""How often a message comes twice."""
LOST: Final = 0.03
"""How often the answer to a commit is lost."""
ASK_AGAIN: Final = 3

Answer = Literal["ok", "stale", "duplicate"]


@dataclass(frozen=True, slots=True)
class Write:
    """What the ledger decided, in the order of its decisions. `payment` empty: a floor was raised."""

    process: str
    key: str
    payment: str
    fence: int
    at: int
    answer: Answer


class Books(Protocol):
    """What a ledger can be asked. Each call is one transaction."""

    def raise_floor(self, key: str, fence: int) -> Answer: ...
    def is_captured(self, payment: str) -> bool: ...
    def capture(self, key: str, payment: str, fence: int) -> Answer: ...
    def close(self) -> list[str]:
        """The last question: sentences about books that do not balance."""
        ...


class GuardedBooks:
    """The real ledger, in memory unless another address is given."""

    def __init__(self, address: str = "sqlite://") -> None:
        from holdfast_ledger import Ledger  # SQLAlchemy takes a while, and few runs need it

        self._ledger = Ledger(address)

    def raise_floor(self, key: str, fence: int) -> Answer:
        from holdfast.fencing import Stale

        try:
            self._ledger.raise_floor(key, fence)
        except Stale:
            return "stale"
        return "ok"

    def is_captured(self, payment: str) -> bool:
        return self._ledger.payment(payment) is not None

    def capture(self, key: str, payment: str, fence: int) -> Answer:
        from holdfast.fencing import Stale
        from holdfast_ledger import Duplicate

        try:
            self._ledger.capture(
                key, payment=payment, customer=key, amount=AMOUNT, currency=CURRENCY, fence=fence
            )
        except Stale:
            return "stale"
        except Duplicate:
            return "duplicate"
        return "ok"

    def close(self) -> list[str]:
        from holdfast_ledger import Unbalanced

        try:
            books = self._ledger.check_balanced()
            balances = self._ledger.balances()
        except Unbalanced as error:
            return [str(error)]
        finally:
            self._ledger.close()
        left = sum(balances.values())
        found = [f"the accounts sum to {left}, not to nothing"] if left else []
        turnover = books.turnover.get(CURRENCY, 0)
        if turnover != books.captures * AMOUNT:
            found.append(f"{books.captures} captures of {AMOUNT} make {turnover}")
        return found


class UnguardedBooks:
    """A table to which rows are added: what a status column that is read before it is written amounts to."""

    def __init__(self) -> None:
        self._captured: list[str] = []

    def raise_floor(self, key: str, fence: int) -> Answer:
        del key, fence
        return "ok"

    def is_captured(self, payment: str) -> bool:
        return payment in self._captured

    def capture(self, key: str, payment: str, fence: int) -> Answer:
        del key, fence
        self._captured.append(payment)
        return "ok"

    def close(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Message:
    """Collect this payment from the customer of this key."""

    payment: str
    key: str


class Messages:
    """A queue that delivers at least once: what is not settled in time comes again, and many a message was sent twice."""

    def __init__(self, keys: tuple[str, ...], rng: Rng, *, visible_again_ns: int) -> None:
        self.settled: set[str] = set()
        """Payments whose message a worker has settled: they must have been captured."""
        self._keys = keys
        self._rng = rng
        self._visible_again = visible_again_ns
        self._waiting: deque[Message] = deque()
        self._taken: list[tuple[int, Message]] = []
        self._sent = 0

    def take(self, now: int) -> Message:
        """The next delivery, or one that is due again."""
        due = [entry for entry in self._taken if entry[0] <= now]
        for entry in due:
            self._taken.remove(entry)
            self._waiting.append(entry[1])
        while len(self._waiting) < OPEN_MAX:
            self._sent += 1
            message = Message(f"p{self._sent}", self._keys[self._sent % len(self._keys)])
            self._waiting.extend([message] * (2 if self._rng.chance(TWICE) else 1))
        self._waiting.rotate(-self._rng.below(len(self._waiting)))
        message = self._waiting.popleft()
        self._taken.append((now + self._visible_again, message))
        return message

    def settle(self, message: Message) -> None:
        """This delivery is done with."""
        self.settled.add(message.payment)
        taken = next((entry for entry in self._taken if entry[1] == message), None)
        if taken is not None:
            self._taken.remove(taken)


class Shop:
    """What the workers of a run share: the messages, the ledger, and the way to it."""

    def __init__(self, books: Books, messages: Messages, rng: Rng) -> None:
        self.books = books
        self.messages = messages
        self.writes: list[Write] = []
        self.rng = rng

    async def raise_floor(self, client: Client, key: str, fence: int) -> Answer:
        """Close the door on older holders."""

        def decide() -> Answer:
            return self._write(client, key, "", fence, self.books.raise_floor(key, fence))

        answer: Answer = await client.ask_elsewhere(decide)
        return answer

    async def is_captured(self, client: Client, payment: str) -> bool:
        """Whether somebody has collected it."""
        captured: bool = await client.ask_elsewhere(lambda: self.books.is_captured(payment))
        return captured

    async def capture(self, client: Client, message: Message, fence: int) -> Answer:
        """Collect it. Where the answer is lost it is asked for again, with the same words."""

        def decide() -> Answer:
            answer = self.books.capture(message.key, message.payment, fence)
            return self._write(client, message.key, message.payment, fence, answer)

        answer: Answer = "stale"
        for _ in range(ASK_AGAIN):
            answer = await client.ask_elsewhere(decide)
            if not self.rng.chance(LOST):
                break
        return answer

    def _write(self, client: Client, key: str, payment: str, fence: int, answer: Answer) -> Answer:
        self.writes.append(Write(client.name, key, payment, fence, client.true_time, answer))
        return answer


async def one_message(client: Client, library: AsyncClient) -> None:
    """Take a message, and collect what it says."""
    shop = cast("Shop", client.shop)
    message = shop.messages.take(client.true_time)
    if await _collect(client, library, shop, message):
        shop.messages.settle(message)


async def _collect(client: Client, library: AsyncClient, shop: Shop, message: Message) -> bool:
    """Whether the message is done with. If not, the queue brings it again."""
    mix, rng = client.mix, client.rng
    is_done = False

    async def body(hold: Hold) -> None:
        nonlocal is_done
        if not hold.trusts() or await shop.raise_floor(client, message.key, hold.token) != "ok":
            return
        is_done = await shop.is_captured(client, message.payment)
        if not is_done and hold.trusts():
            work_ms = rng.between(*mix.work_ms)
            await asyncio.sleep(work_ms / 1000)  # the provider; no look afterwards
            is_done = await shop.capture(client, message, hold.token) != "stale"

    await client.hold(library, (message.key,), body, wait_ms=rng.choice(mix.waits_ms))
    return is_done


def shop_for(name: str, keys: tuple[str, ...], rng: Rng, *, ttl_ms: int) -> Shop | None:
    """Where the workload `name` is one of a ledger. `ttl_ms`: the shortest lease; a message comes again a little later."""
    if name not in (FENCED, UNFENCED):
        return None
    books = GuardedBooks() if name == FENCED else UnguardedBooks()
    return Shop(books, Messages(keys, rng, visible_again_ns=2 * ttl_ms * MILLISECOND), rng)
