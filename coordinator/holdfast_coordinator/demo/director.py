"""The director of the demo: starts the cluster and the workers, hands out the messages, and lets the two accidents happen.

The rule: workers and nodes are real processes that only meet the accidents; they do not know of them. The accidents are

    * the leader of the cluster is killed (SIGKILL) at a random moment, and started again a little later;
    * one worker is stopped (SIGSTOP) between its lock and its write until the queue has delivered its message to another worker,
      which has captured the payment; then it is woken up, and its write, on its way all the time, reaches the books.

Nothing is decided by a wall clock, and everything that was started is ended by its id, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import holdfast
from holdfast.errors import HoldfastError
from holdfast_coordinator.demo import link
from holdfast_coordinator.demo.message_queue import Delivery, MessageQueue
from holdfast_coordinator.demo.scene import Frozen, NodeLine, Scene, WorkerLine
from holdfast_coordinator.demo.worker_process import WorkerProcess
from holdfast_coordinator.local_cluster import LocalClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from holdfast_coordinator.demo.messages import Message
    from holdfast_coordinator.local_cluster import LocalCluster

TTL_SECONDS: Final = 3.0
"""The workers' lease: short, so that nobody watches a frozen worker for long; longer than an election on a busy machine."""

VISIBILITY_SECONDS: Final = 4.5
"""When the queue delivers a message again: after the lease, so that the next worker finds the key free."""

HELD_DELAY_SECONDS: Final = 0.4
FAULT_DELAY_SECONDS: Final = 0.25
"""How long a message rests that met a held key, or a cluster without a leader."""

WORK_SECONDS: Final = 12.0
PROVIDER_SECONDS_MAX: Final = 0.3
"""The pretended provider's mean answer: slow enough for the sample to take about `WORK_SECONDS`, and never slower."""

FREEZE_SHARE: Final = (0.05, 0.15)
"""A worker is frozen when this share of the payments is captured, at random in the range: early, as it takes a few seconds."""

KILL_SHARE: Final = (0.2, 0.55)
"""The leader is killed when this share of the messages is settled, at random in the range."""

LEADER_DOWN_SECONDS: Final = 3.0
OBSERVE_SECONDS: Final = 0.25
STATUS_TIMEOUT_SECONDS: Final = 1.0

STALL_SECONDS_MAX: Final = 60.0
"""A minute in which nothing happens means that something is broken; the demo says so instead of hanging."""

WORKER_DEATHS_MAX: Final = 10
"""Workers that die by themselves are started again, but not for ever."""


class DemoError(Exception):
    """The demo cannot go on; `str()` says why."""


def _first_of(faults: BaseExceptionGroup[Exception]) -> str:
    """Return the text of the first error: tasks wrap what happens in tasks of theirs."""
    first: BaseException = faults
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)


@dataclass(frozen=True)
class Plan:
    """What is to be shown, and with what randomness."""

    messages: Sequence[Message]
    workers: int
    without_fence: bool
    seed: int

    @property
    def provider_seconds(self) -> float:
        return min(PROVIDER_SECONDS_MAX, WORK_SECONDS * self.workers / len(self.messages))


class Director:
    """Runs one demo on a cluster that is ready. `scene` is what others may look at meanwhile."""

    def __init__(
        self, plan: Plan, cluster: LocalCluster, books_path: Path, changed: Callable[[Scene], None]
    ) -> None:
        """`changed(scene)` is called now and then, for a view."""
        self._plan = plan
        self._cluster = cluster
        self._books_path = books_path
        self._changed = changed
        self._queue = MessageQueue(plan.messages, visibility_seconds=VISIBILITY_SECONDS)
        self._rng = random.Random(plan.seed)  # noqa: S311 - when accidents happen, no secret  # nosec B311
        collects = {message.order for message in plan.messages if message.action == "collect"}
        self._freeze_at = int(self._rng.uniform(*FREEZE_SHARE) * len(collects))
        self._kill_at = int(self._rng.uniform(*KILL_SHARE) * len(plan.messages))
        self._workers: dict[str, WorkerProcess] = {}
        self._deliveries: dict[int, Delivery] = {}
        self._recorded: set[tuple[str, str]] = set()
        self._frozen_passed = asyncio.Event()
        self._queue_changed = asyncio.Event()
        self._ended = False
        self._last_progress = 0.0
        names = [f"w{number}" for number in range(1, plan.workers + 1)]
        self.scene = Scene(
            {name: NodeLine() for name in cluster.names},
            {name: WorkerLine() for name in names},
            len(plan.messages),
        )

    @property
    def rejected(self) -> tuple[Message, ...]:
        """The messages that were refused for good."""
        return tuple(self._plan.messages[index] for index in self._queue.rejected)

    async def run(self) -> None:
        """Show everything. Returns when every message is settled and both accidents are over. Raises `DemoError`."""
        self._last_progress = self._now()
        try:
            async with asyncio.TaskGroup() as group:
                observer = group.create_task(self._observe())
                crew = [
                    group.create_task(self._employ(name, n))
                    for n, name in enumerate(self.scene.workers)
                ]
                leader = group.create_task(self._kill_and_restart_the_leader())
                await self._until(lambda: self._queue.is_done)
                await leader
                await self._until(
                    lambda: self.scene.frozen is None or self.scene.frozen.late_write is not None
                )
                self._ended = True
                self._signal()
                await asyncio.gather(*crew)
                observer.cancel()
        except* (DemoError, LocalClusterError) as faults:
            raise DemoError(_first_of(faults)) from None
        finally:
            for worker in list(self._workers.values()):
                await worker.kill()
            self._changed(self.scene)

    # -- the workers -----------------------------------------------------------------------------------------------------

    async def _employ(self, name: str, number: int) -> None:
        """Keep one worker at work until the end. One that dies is replaced, and what it had is delivered again."""
        while not self._ended:
            settings = link.WorkerSettings(
                worker=name,
                endpoints=self._cluster.endpoints,
                books=str(self._books_path),
                without_fence=self._plan.without_fence,
                ttl_seconds=TTL_SECONDS,
                provider_seconds=self._plan.provider_seconds,
                seed=self._plan.seed + number,
            )
            worker = await WorkerProcess.start(settings, self._cluster.directory / f"{name}.log")
            self._workers[name] = worker
            try:
                async with asyncio.TaskGroup() as pair:
                    gate = pair.create_task(self._serve_gate(worker))
                    await self._serve(worker)
                    gate.cancel()
            except* link.LinkClosed:
                self._worker_died(name)
            await worker.finish()
            del self._workers[name]

    async def _serve(self, worker: WorkerProcess) -> None:
        """Answer one worker until it is told that the queue has ended."""
        line = self.scene.workers[worker.name]
        while True:
            request = await worker.next_request()
            match request["op"]:
                case "take":
                    line.state, line.doing = "idle", ""
                    delivery = await self._next_delivery(worker.name)
                    if delivery is None:
                        await worker.answer({"end": True})
                        return
                    line.state = "working"
                    line.doing = f"{delivery.message.action} {delivery.message.payment}"
                    body = link.message_to_json(delivery.message)
                    await worker.answer({"delivery": delivery.number, "message": body})
                case "ack":
                    await worker.answer({"ok": self._ack(worker.name, request)})
                case "nack":
                    await worker.answer({"ok": self._nack(worker.name, request)})
                case "event":
                    self._note(worker.name, request)
                case unknown:
                    raise DemoError(f"worker {worker.name} said {unknown!r}")

    async def _next_delivery(self, name: str) -> Delivery | None:
        while not self._ended:
            now = self._now()
            delivery = self._queue.take(name, now)
            if delivery is not None:
                self._deliveries[delivery.number] = delivery
                self.scene.redelivered = self._queue.redelivered
                return delivery
            at = self._queue.next_change_at()
            changed = self._queue_changed
            try:
                await asyncio.wait_for(changed.wait(), None if at is None else max(0.0, at - now))
            except TimeoutError:
                continue  # the moment has come at which a message is ready again
        return None

    def _ack(self, name: str, request: dict[str, Any]) -> bool:
        delivery = self._deliveries.pop(request["delivery"])
        outcome = request["outcome"]
        if outcome == "captured":
            self.scene.captured += 1
            self.scene.workers[name].captured += 1
        else:
            self.scene.duplicates += 1
            self.scene.already_done += outcome == "already_done"
            self.scene.conflicting += bool(request.get("differences"))
        self._recorded.add(delivery.message.order)
        self._look_at_frozen(name, delivery, outcome)
        return self._progress(self._queue.ack(delivery.number, self._now()))

    def _nack(self, name: str, request: dict[str, Any]) -> bool:
        delivery = self._deliveries.pop(request["delivery"])
        reason = request["reason"]
        self._look_at_frozen(name, delivery, reason)
        now = self._now()
        # A refund may come before its collect; when no collect is left that could still come, it never will.
        hopeless = reason == "not_captured" and not self._queue.open_messages(
            (delivery.message.payment, "collect")
        )
        if hopeless or reason == "refused":
            if self._queue.reject(delivery.number, now, request["detail"]):
                self.scene.rejected[request["detail"]] += 1
                return self._progress(True)
            return False
        self.scene.found_held += reason == "held"
        delay = HELD_DELAY_SECONDS if reason in ("held", "not_captured") else FAULT_DELAY_SECONDS
        given_back = self._queue.nack(delivery.number, now, delay)
        self._signal()
        return given_back

    def _note(self, name: str, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "granted":
                self.scene.granted += 1
                self.scene.gaps.granted(self._now())
                self._last_progress = self._now()
            case "stale":
                self.scene.stale_writes += 1
                self.scene.tell(
                    f"{name}: late write refused as STALE: fence {event['fence']}, but {event['highest']} has been seen"
                )
            case "lost":
                self.scene.lost += 1
                self.scene.tell(
                    f"{name}: lost its lock (token {event['fence']}); its work was cancelled"
                )

    def _worker_died(self, name: str) -> None:
        self.scene.workers[name].state = "dead"
        returned = self._queue.worker_gone(name, self._now())
        self._signal()
        self.scene.workers_died += 1
        frozen = self.scene.frozen
        if frozen is not None and frozen.worker == name and frozen.late_write is None:
            frozen.late_write = (
                "died"  # there will be none, which breaks a promise and hangs nothing
            )
        self.scene.tell(f"{name}: died; {returned} message(s) delivered again; started again")
        if self.scene.workers_died > WORKER_DEATHS_MAX:
            raise DemoError(f"the workers keep dying; the last was {name}: see {name}.log")

    # -- the accidents ---------------------------------------------------------------------------------------------------

    async def _serve_gate(self, worker: WorkerProcess) -> None:
        """Let every write pass but one."""
        try:
            while True:
                waiting = await worker.next_at_gate()
                delivery = self._deliveries[waiting["delivery"]]
                if self._is_to_be_frozen(delivery):
                    await self._freeze(worker, delivery, waiting["fence"])
                else:
                    await worker.open_gate()
        except link.LinkClosed:
            return  # the worker has gone, which whoever serves its link notices too

    def _is_to_be_frozen(self, delivery: Delivery) -> bool:
        order = delivery.message.order
        if (
            self.scene.frozen is not None
            or delivery.message.action != "collect"
            or order in self._recorded
        ):
            return False
        recorded = sum(action == "collect" for _, action in self._recorded)
        # Best is a payment with no duplicate in the queue: then it is the redelivery of this very message that overtakes.
        patience_is_over = recorded >= 2 * self._freeze_at
        return recorded >= self._freeze_at and (
            patience_is_over or self._queue.open_messages(order) == 1
        )

    async def _freeze(self, worker: WorkerProcess, delivery: Delivery, fence: int) -> None:
        """time 0: stopped; time 1: its lease has ended, another has captured; time 2: woken, and the write goes on."""
        message = delivery.message
        worker.freeze()
        self.scene.frozen = Frozen(
            worker.name, delivery.number, message.order, message.lock_key, fence
        )
        line = self.scene.workers[worker.name]
        line.state = "frozen"
        self.scene.tell(
            f"{worker.name}: FROZEN (SIGSTOP) between lock (fence {fence}) and capture of {message.payment}"
        )
        await self._frozen_passed.wait()
        await (
            worker.open_gate()
        )  # the word waits in the socket: nothing runs over there before the next line
        worker.wake()
        line.state = "working"
        self.scene.tell(f"{worker.name}: woken up (SIGCONT), in the middle of its write")

    def _look_at_frozen(self, name: str, delivery: Delivery, outcome: str) -> None:
        """Notice that the frozen worker has been overtaken, and later what its own write came to."""
        frozen = self.scene.frozen
        if frozen is None:
            return
        if delivery.number == frozen.delivery:
            frozen.late_write = outcome
            if outcome == "captured" and frozen.overtaken_by is not None:
                self.scene.tell(
                    f"{name}: late write ACCEPTED: {delivery.message.payment} is captured a second time"
                )
        elif (
            delivery.message.order == frozen.order
            and frozen.overtaken_by is None
            and outcome == "captured"
        ):
            frozen.overtaken_by = name
            self.scene.tell(
                f"{name}: captured {delivery.message.payment} in place of the frozen {frozen.worker}"
            )
            self._frozen_passed.set()

    async def _kill_and_restart_the_leader(self) -> None:
        await self._until(lambda: self._queue.settled >= self._kill_at)
        leader: str | None = None
        async with holdfast.connect(
            self._cluster.endpoints, timeout=STATUS_TIMEOUT_SECONDS
        ) as client:
            while leader is None:
                try:
                    leader = (await client.status()).leader
                except HoldfastError:
                    leader = None
                if leader is None:
                    await asyncio.sleep(OBSERVE_SECONDS)
        await self._cluster.kill(leader)
        self.scene.leader_killed = leader
        self.scene.nodes[leader] = NodeLine("killed")
        self.scene.tell(f"{leader}: KILLED (SIGKILL), the leader of the cluster")
        await asyncio.sleep(LEADER_DOWN_SECONDS)
        self.scene.nodes[leader] = NodeLine("starting")
        await self._cluster.start(leader)
        self.scene.leader_back = True
        self.scene.tell(f"{leader}: started again, and ready")

    # -- looking on ------------------------------------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Ask every node how it is, feed the view, and notice a standstill."""
        async with holdfast.connect(
            self._cluster.endpoints, timeout=STATUS_TIMEOUT_SECONDS
        ) as client:
            while True:
                answers = await client.statuses()
                for name in self._cluster.names:
                    self._see_node(name, answers.get(self._cluster.url(name)))
                frozen = self.scene.frozen
                key = frozen.lock_key if frozen is not None and frozen.late_write is None else None
                self.scene.gaps.work_is_there(self._queue.has_work_besides(key), self._now())
                self._changed(self.scene)
                if self._now() - self._last_progress > STALL_SECONDS_MAX:
                    raise DemoError(f"nothing has happened for {STALL_SECONDS_MAX:.0f} seconds")
                await asyncio.sleep(OBSERVE_SECONDS)

    def _see_node(self, name: str, answer: holdfast.ClusterInfo | HoldfastError | None) -> None:
        line = self.scene.nodes[name]
        if isinstance(answer, holdfast.ClusterInfo):
            line.state = "leader" if answer.leader == name else "follower"
            line.term, line.applied_index = answer.term, answer.applied_index
        elif line.state not in ("killed", "starting"):
            line.state = "no answer"

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that only the queue's changes can make true."""
        while not condition():
            await self._queue_changed.wait()

    def _progress(self, settled: bool) -> bool:
        self.scene.settled = self._queue.settled
        self._last_progress = self._now()
        self._signal()
        return settled

    def _signal(self) -> None:
        """Wake up everybody who waits for a change of the queue."""
        changed, self._queue_changed = self._queue_changed, asyncio.Event()
        changed.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
