"""Who may do what on the stream: what each may do with plain calls, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast import stream_wire as numbers

from .access import access_of, bearer, grant, identity
from .test_stream import acquire, connected

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Caller

SESSION = "a-session-of-the-worker"
ACCESS = access_of(
    identity("worker", grant("acquire", "mine/")),
    identity("neighbour", grant("acquire", "other/")),
    identity("reader", grant("read")),
)


@pytest.fixture
async def guarded(serve: Callable[..., Any], node: Any) -> Caller:
    caller: Caller = await serve(node, access=ACCESS)
    return caller


def entries(session: str, token: int) -> list[list[Any]]:
    """One of every kind that names a session."""
    return [
        [numbers.RENEW, 21, session],
        [numbers.RELEASE, 22, session, token],
        [numbers.CHECKPOINT, 23, session, token, "half way"],
        [numbers.COMPLETE, 24, session, token, "done", 60_000],
        [numbers.CANCEL, 25, session, 1],
        [numbers.CLOSE, 26, session],
    ]


async def test_each_entry_asks_for_the_right_that_its_plain_call_asks_for(guarded):
    """Every key of a request is looked at, and a frame is not refused for one of its entries."""
    async with connected(guarded, headers=bearer("worker")) as worker:
        await worker.say(
            [numbers.OPEN, 1, SESSION, 10_000],
            acquire(2, SESSION, 1, "mine/k"),
            acquire(3, SESSION, 2, "other/k"),
            [numbers.ACQUIRE, 4, SESSION, 3, ["mine/a", "other/b"]],
        )
        told = {call: entry for _, call, *entry in [await worker.hear() for _ in range(4)]}
    assert told[2][0] == 1
    assert [told[call][0] for call in (3, 4)] == [403, 403]
    assert told[3][1]["code"] == told[4][1]["code"] == "forbidden"


async def test_who_may_only_read_can_ask_nothing_on_the_stream(guarded):
    """It carries calls of those who lock."""
    async with connected(guarded, headers=bearer("reader")) as reader:
        for entry in (
            [numbers.OPEN, 1, SESSION, 9_000],
            acquire(2, SESSION, 1, "k"),
            *entries(SESSION, 1),
        ):
            kind, _, status, _ = await reader.ask(*entry)
            assert (kind, status) == (numbers.REFUSED, 403)


async def test_the_session_of_another_identity_does_not_exist(guarded):
    """Whoever learns its id can do nothing with it: it names another session, on the stream and off it."""
    async with connected(guarded, headers=bearer("worker")) as worker:
        await worker.ask(numbers.OPEN, 1, SESSION, 10_000)
        await worker.ask(*acquire(2, SESSION, 1, "mine/k"))
        async with connected(guarded, headers=bearer("neighbour")) as neighbour:
            for entry in entries(SESSION, 1):
                kind, _, status, _ = await neighbour.ask(*entry)
                assert kind == numbers.REFUSED or entry[0] == numbers.CANCEL, entry
                assert status in (403, 404, 409, 410), entry
            await neighbour.ask(numbers.OPEN, 3, SESSION, 10_000)
            assert (await neighbour.ask(*acquire(4, SESSION, 1, "other/k")))[2] == 2
        kind, *_ = await worker.ask(numbers.RENEW, 5, SESSION)
        assert kind == numbers.RENEW


async def test_a_lost_session_is_told_by_the_name_that_its_caller_gave_it(guarded, node):
    """The lock table knows it by another one."""
    async with connected(guarded, headers=bearer("worker")) as worker:
        await worker.ask(numbers.OPEN, 1, SESSION, 1_000)
        node.advance(2_000)
        assert await worker.hear() == [numbers.ENDED, 0, SESSION]
