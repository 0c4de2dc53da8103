"""The store on Redis: one primary, one Lua script for each call (`redis_scripts.py`).

Rules:
* No connection: `NotSent`. Once a script was sent, an error of the connection is `NoAnswer`: it may have run. An error that the
  server answers was found before the script ran (it is loading, a replica, out of memory), so it took no effect.
* The library's own repeats are switched off: what may be repeated is decided by the client, under the request id.
* Promises no more than one primary gives: a replica that is promoted may lack the last grants (see `capabilities.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    MaxConnectionsError,
    NoScriptError,
    RedisError,
    ResponseError,
)

from holdfast.errors import ClientClosed
from holdfast.stores.base import (
    Ask,
    Granted,
    HolderView,
    LockView,
    Refusal,
    WaiterView,
    overloaded,
)
from holdfast.stores.redis_scripts import CHANNEL, PREFIX, SCRIPTS
from holdfast.stores.waiting import Queued, Wakes, decided
from holdfast.transport import NoAnswer, NotSent
from holdfast.views import Previous
from holdfast.wire import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock

log = logging.getLogger("holdfast")

CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0
"""A script takes microseconds; a server that is silent for so long is frozen or cut off."""
CONNECTIONS_MAX: Final = 64
"""Per client. A script has its connection for one round trip; more at once would only stand in line inside the server."""
CLOSE_SECONDS: Final = 2.0
"""For calls that are under way when the client is closed."""
AGAIN_SECONDS: Final = 1.0
"""Between attempts to subscribe; meanwhile the waiters poll."""

_SHA: Final = {
    name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    for name, source in SCRIPTS.items()
}


class RedisStore:
    """One client's way to the server. Use it on one event loop."""

    def __init__(self, url: str, shown: str, clock: Clock, draw: Callable[[], float]) -> None:
        """Connects to nothing yet."""
        self.name: str = "redis"
        self._shown = shown
        self._clock = clock
        self._draw = draw
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._free = asyncio.Semaphore(CONNECTIONS_MAX - 1)  # one listens
        self._wakes = Wakes()
        self._listening: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._is_listening = False
        self._is_closed = False

    async def open_session(self, session: str, ttl_ms: int, owner: str | None) -> int:
        return int((await self._call("open", session, ttl_ms, owner or ""))["left"])

    async def renew(self, session: str) -> int:
        return int((await self._call("renew", session))["left"])

    async def close(self, session: str) -> list[int]:
        return [int(each) for each in (await self._call("close", session))["released"]]

    async def acquire(self, ask: Ask) -> Granted:
        async def look(first: bool) -> Granted | Queued:
            found = await self._call(
                "acquire",
                ask.session,
                ask.request_id,
                ask.settled,
                ask.wait_ms,
                ask.fingerprint,
                ask.owner or "",
                int(first),
                *ask.keys,
            )
            if found.get("waiting"):
                return Queued(found["number"], int(found["wait_left"]), found.get("blocked"))
            previous = tuple(
                None if each is None else Previous(int(each["token"]), each["ended"])
                for each in found["previous"]
            )
            left, horizon = int(found["left"]), int(found["horizon"])
            return Granted(int(found["token"]), ask.keys, left, previous, horizon)

        return await decided(
            ask, look, wakes=self._wakes, ready=self._ready, clock=self._clock, draw=self._draw
        )

    async def release(self, session: str, token: int) -> None:
        await self._call("release", session, token)

    async def cancel(self, session: str, request_id: int) -> int | None:
        released = (await self._call("cancel", session, request_id)).get("released")
        return None if released is None else int(released)

    async def read(self, key: str) -> LockView:
        return _view(await self._call("read", key))

    async def locks(self, prefix: str, after: str | None, limit: int) -> list[LockView]:
        return [_view(each) for each in await self._call("list", prefix, after or "", limit)]

    async def time_ms(self) -> int:
        return int((await self._call("time"))["now"])

    async def aclose(self) -> None:
        self._is_closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        self._wakes.wake_all()
        # A call that is still connecting would leave its connection behind: wait until none is under way.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                for _ in range(CONNECTIONS_MAX - 1):
                    await self._free.acquire()
        await self._pool.disconnect()

    async def _call(self, script: str, *arguments: object) -> Any:
        """What the script says. Raises as the module says."""
        async with self._free:
            if self._is_closed:
                raise ClientClosed("the client was closed")
            try:
                # The library's decorator hides the types of this one.
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            except MaxConnectionsError as error:
                raise overloaded(str(error)) from error
            except (RedisError, OSError, TimeoutError) as error:
                raise NotSent(f"{self._shown} cannot be reached: {error}") from error
            try:
                raw = await self._ask(connection, script, arguments)
            except BaseException:
                # An answer may still be on its way: the next call must not take it for its own.
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)
        found = json.loads(raw)
        if isinstance(found, dict) and "code" in found:
            raise _refusal(found)
        return found

    async def _ask(self, connection: Any, script: str, arguments: tuple[object, ...]) -> str:
        try:
            try:
                await connection.send_command("EVALSHA", _SHA[script], 1, PREFIX, *arguments)
                return str(await connection.read_response())
            except NoScriptError:  # nothing ran
                await connection.send_command("EVAL", SCRIPTS[script], 1, PREFIX, *arguments)
                return str(await connection.read_response())
        except AuthenticationError as error:
            raise NotSent(f"{self._shown}: {error}") from error
        except ResponseError as error:
            if "user_script" in str(error) or "script:" in str(error):
                raise NoAnswer(f"{self._shown}: {error}") from error  # inside a script: a fault
            raise overloaded(str(error)) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise NoAnswer(f"{self._shown}: {type(error).__name__}: {error}") from error

    # -- messages

    async def _ready(self) -> bool:
        if self._listening is None:
            self._listening = asyncio.create_task(self._keep_listening(), name="holdfast: listen")
        await self._tried.wait()
        return self._is_listening

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("waiters poll, because the server cannot tell them: %s", error)
            self._is_listening = False
            self._tried.set()
            self._wakes.wake_all()
            await self._clock.sleep_until(self._clock.now() + AGAIN_SECONDS)

    async def _listen(self) -> None:
        client = Redis(connection_pool=self._pool)
        async with client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            while True:
                message = await channel.get_message(timeout=None)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._is_listening = True
                    self._tried.set()
                    self._wakes.wake_all()  # what was told before this is lost
                elif message["type"] == "message" and message["data"].isdecimal():
                    self._wakes.wake(int(message["data"]))


def _refusal(problem: dict[str, Any]) -> Refusal:
    code, detail = Code(problem.pop("code")), problem.pop("detail")
    if "holders" in problem:
        problem["holders"] = [_holder(each).body() for each in problem["holders"]]
    return Refusal(code, detail, **problem)


def _holder(found: dict[str, Any]) -> HolderView:
    return HolderView(int(found["token"]), found["session"], found.get("owner"), int(found["left"]))


def _view(found: dict[str, Any]) -> LockView:
    holder = found.get("holder")
    waiters = [
        WaiterView(each["session"], each.get("owner"), tuple(each["keys"]), int(each["left"]))
        for each in found["waiters"]
    ]
    return LockView(
        found["key"], None if holder is None else _holder(holder), waiters, found["queue_length"]
    )
