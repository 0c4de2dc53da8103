"""One stream to one node: what is asked in one turn of the loop leaves as one frame, and each answer finds who asked.

Rule: for an operation there is one future and nothing else: no task, no timer. Deadlines are looked after together. What is on its
way is bounded by the window that the node has told; whoever asks for more waits here. It knows frames and the WebSocket, and
nothing of sessions, endpoints and retries.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgpack

from holdfast import stream_wire as numbers
from holdfast import wire
from holdfast.attempts import NoAnswer, NotSent
from holdfast.stream_frames import answer_of
from holdfast.transport import ANSWER_BYTES_MAX, Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.clock import Clock
    from holdfast.stream_frames import Entry

log: logging.Logger = logging.getLogger("holdfast")

WINDOW_RESERVE: Final = 64
"""Of the window, kept for what is no acquire: a thousand that wait must never stand in the way of a renewal or a release."""


FRAMES_ON_WAY_MAX: Final = 2
"""Frames of which nothing has been answered yet; what is asked meanwhile gathers for the next one. With two, a call that is alone,
or beside one other, never waits; with many, a frame carries what the last answers have set free. Frames whose calls all wait for
a lock do not count: they are answered when somebody lets go. Those of renewals count for themselves: a node gathers renewals for
50 ms if nothing else comes, and no acquire must stand behind them for so long."""

CLOSE_SECONDS: Final = 1.0
"""What a node gets to say that it has heard of the end; a frozen one never does."""


ARRAY_HEAD_BYTES: Final = 3
"""Of an array of up to 65,535 entries."""


class _Asked:
    """One operation on its way."""

    __slots__ = ("frame", "future", "give_up_at", "sent_at")

    def __init__(self, future: asyncio.Future[Entry], sent_at: float, give_up_at: float) -> None:
        self.future = future
        self.sent_at = sent_at
        self.give_up_at = give_up_at
        self.frame = 0
        """In which it left; 0: not yet, or it waits for a lock and says nothing about how quick the node is."""


class StreamConnection:
    """Made by `open`. `on_closed` is called once, when it is over."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        *,
        endpoint: str,
        clock: Clock,
        pushed: Callable[[str, tuple[int, ...] | None], None],
        led_from: Callable[[str], None],
    ) -> None:
        """`pushed` hears what became of a session, `led_from` at which address the leader is."""
        self.on_closed: Callable[[], None] = lambda: None
        self.is_closed: bool = False
        self._socket = socket
        self._endpoint = endpoint
        self._clock = clock
        self._pushed = pushed
        self._led_from = led_from
        self._is_retired = False
        self._loop = asyncio.get_running_loop()
        self._pack: Callable[[Entry], bytes] = msgpack.Packer().pack
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._waiting: deque[tuple[int, set[int] | None, bytes]] = deque()
        """Of what has not left yet: number, among which frames it counts (None: it waits for a lock), and the packed entry."""
        self._room: deque[asyncio.Future[None]] = deque()
        self._window = 1
        self._frame_operations_max = 1
        self._frame_bytes_max = numbers.FRAME_BYTES_MAX
        self._is_scheduled = False
        self._frames_on_way: set[int] = set()
        self._renewals_on_way: set[int] = set()
        """Frames with renewals."""
        self._last_frame = 0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._heard_at = clock.now()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        clock: Clock,
        pushed: Callable[[str, tuple[int, ...] | None], None],
        led_from: Callable[[str], None],
    ) -> StreamConnection:
        """Connect and hear what the node has to say first. Raises what aiohttp raises, and `NoAnswer`, `ValueError`."""
        socket = await session.ws_connect(
            url,
            headers=headers,
            max_msg_size=ANSWER_BYTES_MAX,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
        )
        connection = cls(socket, endpoint=endpoint, clock=clock, pushed=pushed, led_from=led_from)
        try:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise NoAnswer("it ended before the node said anything")
            connection._greeted(message.data)
        except BaseException:
            await socket.close()
            raise
        loop = asyncio.get_running_loop()
        connection._tasks = [
            loop.create_task(connection._read(), name="holdfast: stream, reading"),
            loop.create_task(connection._write(), name="holdfast: stream, writing"),
        ]
        return connection

    async def ask(self, entry: Entry, body: Mapping[str, Any], seconds: float) -> Answer:
        """The answer within `seconds`, as that of a plain call with `body`. Raises `NotSent`, `NoAnswer`; `ValueError`,
        `TypeError` and `OverflowError` for what msgpack cannot carry."""
        asked = _Asked(self._loop.create_future(), sent_at := self._clock.now(), 0.0)
        asked.give_up_at = give_up_at = sent_at + seconds
        if len(self._asked) >= self._window - WINDOW_RESERVE:
            await self._until_there_is_room(entry, seconds)
        if self.is_closed:
            raise NotSent(f"the stream to {self._endpoint} was closed")
        entry[1] = number = next(self._numbers)
        # Packed here, one by one: what cannot be packed is its caller's to hear, and no reason for others to go without an answer.
        packed = self._pack(entry)
        self._asked[number] = asked
        kind = entry[0]
        among: set[int] | None = self._frames_on_way
        if kind == numbers.ACQUIRE:
            if entry[5] != 0:
                among = None
        elif kind == numbers.RENEW:
            among = self._renewals_on_way
        self._waiting.append((number, among, packed))
        if not self._is_scheduled:
            # The writer comes two turns of the loop later: whoever has just been granted a lock gives it back a turn after another
            # one has asked for it, and both leave together.
            self._is_scheduled = True
            self._loop.call_soon(self._wake.set)
        if give_up_at < self._timer_at:
            self._look_at(give_up_at)
        try:
            answer = await asked.future
        except BaseException:
            self._answered(asked.frame)
            raise
        finally:
            self._asked.pop(number, None)
            if self._room:
                self._make_room()
            if self._is_retired:
                self.retire()
        try:
            status, told = answer_of(answer, body)
        except (ValueError, LookupError, TypeError) as error:
            raise NoAnswer(f"{self._endpoint}: an answer that cannot be read") from error
        return Answer(status, told, sent_at, self._endpoint)

    def retire(self) -> None:
        """Nothing new is asked here; over as soon as everything has its answer."""
        self._is_retired = True
        if not self._asked:
            self._lose("it is not needed any more")

    async def aclose(self) -> None:
        """End it in order, or wait until it has ended."""
        self._lose("the client was closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the window

    async def _until_there_is_room(self, entry: Entry, seconds: float) -> None:
        reserve = WINDOW_RESERVE if entry[0] == numbers.ACQUIRE else 0
        try:
            async with self._clock.timeout(seconds):
                while len(self._asked) >= max(1, self._window - reserve) and not self.is_closed:
                    room = self._loop.create_future()
                    self._room.append(room)
                    try:
                        await room
                    finally:
                        if room in self._room:
                            self._room.remove(room)
        except TimeoutError as error:
            raise NotSent(f"too many operations wait for {self._endpoint}") from error

    def _make_room(self) -> None:
        """Whoever waits looks again: who may go on depends on what it asks."""
        room, self._room = self._room, deque()
        for each in room:
            if not each.done():
                each.set_result(None)

    # -- out

    async def _write(self) -> None:
        waiting, socket = self._waiting, self._socket
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._is_scheduled = False
                while waiting and self._may_send():
                    frame = self._next_frame()
                    if frame:
                        await socket.send_bytes(frame)
        except (aiohttp.ClientError, OSError) as error:
            self._lose(f"{type(error).__name__}: {error}")

    def _may_send(self) -> bool:
        """Whether something that waits may leave; renewals are then taken along."""
        if len(self._frames_on_way) >= FRAMES_ON_WAY_MAX:
            return False
        renewals = self._renewals_on_way
        return len(renewals) < FRAMES_ON_WAY_MAX or any(
            among is not renewals for _, among, _ in self._waiting
        )

    def _next_frame(self) -> bytes:
        """What nobody waits for any more is left out: it has been asked elsewhere since, or taken back. Empty: nothing leaves.
        What no frame can carry is refused here, as the node refuses the plain call: its frame would end the connection."""
        waiting, asked = self._waiting, self._asked
        self._last_frame = frame = self._last_frame + 1
        entries: list[bytes] = []
        size = ARRAY_HEAD_BYTES
        while waiting and len(entries) < self._frame_operations_max:
            number, among, packed = waiting[0]
            one = asked.get(number)
            if one is not None:
                size += len(packed)
                if size > self._frame_bytes_max:
                    if not entries:
                        waiting.popleft()
                        _refuse(one, f"{len(packed)} bytes are more than a frame may have")
                    break
                entries.append(packed)
                if among is not None:
                    one.frame = frame
                    among.add(frame)
            waiting.popleft()
        return _array_of(entries)

    def _answered(self, frame: int) -> None:
        """Something of it was, or nobody waits for that any more."""
        self._frames_on_way.discard(frame)
        self._renewals_on_way.discard(frame)
        if self._waiting and len(self._frames_on_way) < FRAMES_ON_WAY_MAX:
            self._wake.set()

    # -- in

    async def _read(self) -> None:
        socket = self._socket
        try:
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.BINARY:
                    self._lose("the node ended it")
                    return
                self._take(message.data)
                # Whoever has an answer goes on before the next frame is looked at, which may be here already.
                await asyncio.sleep(0)
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            self._lose(f"{type(error).__name__}: {error}")
        finally:
            await socket.close()

    def _greeted(self, data: bytes) -> None:
        try:
            entries = msgpack.unpackb(data)
            kind, _, told = entries[0]
            version = told["version"]
            self._window = int(told["window"])
            self._frame_operations_max = int(told["frame_operations_max"])
            self._frame_bytes_max = int(told["frame_bytes_max"])
        except (LookupError, TypeError, msgpack.UnpackException) as error:
            raise ValueError("what the node says is not the stream") from error
        if kind != numbers.HELLO or version != numbers.STREAM_VERSION:
            raise ValueError("the node speaks another version of the stream")
        for entry in entries[1:]:
            self._take_pushed(entry)

    def _take(self, data: bytes) -> None:
        self._heard_at = self._clock.now()
        asked, frame = self._asked, 0
        for entry in msgpack.unpackb(data):
            number = entry[1]
            if number == 0:
                self._take_pushed(entry)
                continue
            waiting = asked.get(number)
            if waiting is not None and not waiting.future.done():
                waiting.future.set_result(entry)
                if waiting.frame != frame:
                    frame = waiting.frame
                    self._answered(frame)

    def _take_pushed(self, entry: Entry) -> None:
        """What is not known is for a newer client."""
        if entry[0] == numbers.ENDED:
            self._pushed(str(entry[2]), None)
        elif entry[0] == numbers.FORCED:
            self._pushed(str(entry[2]), tuple(map(int, entry[3])))
        elif entry[0] == numbers.LEADER:
            self._led_from(str(entry[3]))

    # -- deadlines and the end

    def _look_at(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = instant
        # The loop's own clock bounds one attempt well enough, as in `BootClock.timeout`.
        self._timer = self._loop.call_later(max(0.0, instant - self._clock.now()), self._expire)

    def _expire(self) -> None:
        """Whoever has waited long enough has no answer. Said nothing at all since one was asked, the node is frozen or cut off."""
        self._timer, self._timer_at = None, math.inf
        now = self._clock.now()
        is_silent = False
        unsent = {number for number, _, _ in self._waiting}
        overdue = [n for n, each in self._asked.items() if each.give_up_at <= now]
        for number in overdue:
            each = self._asked.pop(number)  # so that what has not left does not leave any more
            if each.future.done():
                continue
            is_silent |= self._heard_at < each.sent_at
            seconds = each.give_up_at - each.sent_at
            text = f"{self._endpoint} did not answer within {seconds:.3g} s"
            each.future.set_exception(NotSent(text) if number in unsent else NoAnswer(text))
        if is_silent:
            self._lose("the node says nothing")
            return
        left = [each.give_up_at for each in self._asked.values() if not each.future.done()]
        if left:
            self._look_at(min(left))

    def _lose(self, why: str) -> None:
        """It is over: nobody who still waits gets an answer here."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        unsent = {number for number, _, _ in self._waiting}
        self._waiting.clear()
        text = f"the stream to {self._endpoint} ended: {why}"
        for number, each in self._asked.items():
            if not each.future.done():
                each.future.set_exception(NotSent(text) if number in unsent else NoAnswer(text))
        self._make_room()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self.on_closed()


def _refuse(asked: _Asked, detail: str) -> None:
    if not asked.future.done():
        code = wire.Code.TOO_LARGE
        problem = {"code": code.value, "status": wire.HTTP_STATUS[code], "detail": detail}
        asked.future.set_result([numbers.REFUSED, 0, problem["status"], problem])


def _array_of(entries: list[bytes]) -> bytes:
    """A msgpack array of what is packed already; empty for none."""
    count = len(entries)
    if count == 0:
        return b""
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(entries)
