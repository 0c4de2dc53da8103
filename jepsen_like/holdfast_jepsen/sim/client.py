"""A simulated process that uses the client library: an event loop and a clock of its own, and a network that can fail.

The library lives in its own scale of time: one second on its clock is `pace` seconds of the run, so that its constants keep their
proportions to leases and elections at any pace (see `pace`). Milliseconds in its requests and answers are translated here.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import msgpack
import msgspec

from holdfast import stream_frames as frames
from holdfast.clock import SLEEP_SLICE_SECONDS
from holdfast.transport import Answer, NoAnswer, NotSent
from holdfast_jepsen.sim.front import NUMBER
from holdfast_jepsen.sim.gateway import NOBODY_LISTENS
from holdfast_jepsen.sim.world import Actor
from holdfast_jepsen.workloads.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

    from holdfast.transport import Request
    from holdfast_jepsen.history import History
    from holdfast_jepsen.sim.gateway import Gateway
    from holdfast_jepsen.sim.rng import Rng
    from holdfast_jepsen.sim.world import World
    from holdfast_jepsen.workloads.mix import Mix

ASKED_MS = ("ttl_ms", "wait_ms", "retain_ms", "delay_ms")
TOLD_MS = ("ttl_ms", "remaining_ms", "retry_after_ms")


class ClientClock:
    """`holdfast.clock.Clock`: the clock of a process, a second of which is `pace` of its seconds."""

    def __init__(self, actor: Actor, pace: int) -> None:
        self._actor = actor
        self._pace = pace

    def now(self) -> float:
        """The present instant."""
        return self._actor.time() / self._pace

    async def sleep_until(self, instant: float) -> None:
        """As `BootClock`: in slices, since the clock may change its rate meanwhile."""
        while (left := instant - self.now()) > 0:  # noqa: ASYNC110 - time is not an event
            await asyncio.sleep(min(left, SLEEP_SLICE_SECONDS) * self._pace)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """As `BootClock`."""
        return asyncio.timeout(None if math.isinf(seconds) else max(seconds, 0.0) * self._pace)


class SimTransport:
    """`holdfast.transport.Transport`. `hangs_up`: whoever gives up closes the connection, as that of a plain call; otherwise the
    connection is shared, and nobody tells the node."""

    def __init__(
        self, actor: Actor, clock: ClientClock, gateway: Gateway, pace: int, *, hangs_up: bool
    ) -> None:
        self._actor = actor
        self._clock = clock
        self._gateway = gateway
        self._pace = pace
        self._hangs_up = hangs_up

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        """One request to one node."""
        body = {
            name: value * self._pace if name in ASKED_MS else value
            for name, value in (request.body or {}).items()
        }
        entry = frames.entry_of(request.path, body)
        if entry is not None:
            entry[1] = NUMBER
        sent_at = self._clock.now()
        packed = json.dumps(body).encode() if entry is None else msgpack.packb([entry])
        told = await self._ask(endpoint, packed, seconds, is_frame=entry is not None)
        if entry is None:
            status, answer = msgspec.json.decode(told)
        else:
            [answered] = msgpack.unpackb(told)
            status, answer = frames.answer_of(answered, body)
        return Answer(status, self._translated(answer), self.sent(sent_at), endpoint)

    def sent(self, sent_at: float) -> float:
        """What the library takes for the instant before the request left."""
        return sent_at

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _ask(self, endpoint: str, request: bytes, seconds: float, *, is_frame: bool) -> bytes:
        actor, gateway = self._actor, self._gateway
        future: asyncio.Future[Any] = actor.create_future()
        call = gateway.ask(actor, endpoint, request, future, is_frame=is_frame)
        timer = actor.call_later(seconds * self._pace, _give_up, future)
        try:
            told = await future
        except BaseException:
            self._leave(call)
            raise
        finally:
            timer.cancel()
        if told is _SILENCE:
            self._leave(call)
            raise NoAnswer(f"{endpoint} did not answer within {seconds:.3g} s")
        gateway.settled(actor.name, call)
        if told is NOBODY_LISTENS:
            raise NotSent(f"{endpoint} cannot be reached")
        if told is None:
            raise NoAnswer(f"the connection to {endpoint} broke")
        answer: bytes = told
        return answer

    def _leave(self, call: int) -> None:
        if self._hangs_up:
            self._gateway.hang_up(self._actor.name, call)

    def _translated(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Rounded down: what remains must not become more."""
        told = dict(body)
        for name in TOLD_MS:
            if isinstance(value := told.get(name), int):
                told[name] = value // self._pace
        return told


class SimClient(Client):
    """See the module."""

    transport_class = SimTransport

    def __init__(
        self,
        name: str,
        *,
        world: World,
        gateway: Gateway,
        history: History,
        mix: Mix,
        rng: Rng,
        rate: float,
        ref: Callable[[str], str],
    ) -> None:
        self._world = world
        self._gateway = gateway
        self._clock_base, self._clock_from = 0, world.now
        self.rate = rate
        self.actor = Actor(world, name, clock=self.clock_ns, rate=rate)
        clock = ClientClock(self.actor, mix.pace)
        transport = self.transport_class(
            self.actor, clock, gateway, mix.pace, hangs_up=rng.chance(0.5)
        )
        super().__init__(
            name,
            mix=mix,
            rng=rng,
            history=history,
            endpoints=tuple(gateway.servers),
            clock=clock,
            transport=transport,
            now=lambda: world.now,
            ref=ref,
            shop=gateway.shop,
        )

    def clock_ns(self) -> int:
        """Its own clock."""
        return self._clock_base + int((self._world.now - self._clock_from) * self.rate)

    def set_rate(self, rate: float) -> None:
        """How fast its clock runs from now on; what it trusts in lasts so much longer or shorter."""
        self.look_at_beliefs()
        self._clock_base, self._clock_from = self.clock_ns(), self._world.now
        self.rate = rate
        self.actor.set_rate(rate)
        self.look_at_beliefs()

    def start(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Do this work as this process."""
        self._world.at(self._world.now, self._begin, work, actor=self.actor)

    def _begin(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self.actor.create_task(work(self)).add_done_callback(self._worked)

    @staticmethod
    def _worked(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def crash(self) -> None:
        """The process is gone."""
        self.is_gone()
        self.actor.end()
        self._gateway.hang_up_all(self.name)

    async def ask_elsewhere(self, decide: Callable[[], Any]) -> Any:
        """See `Client.ask_elsewhere`."""
        future: asyncio.Future[Any] = self.actor.create_future()
        self._gateway.elsewhere(self.actor, decide, future)
        return await future


class _Silence:
    """What a future gets when its time is up."""


_SILENCE = _Silence()


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(_SILENCE)
