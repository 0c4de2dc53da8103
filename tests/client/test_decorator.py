"""`locked`: functions under a lock whose key comes from their arguments, in both faces; and re-entry."""

from __future__ import annotations

import asyncio
import enum
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast.decorator import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@dataclass
class Order:
    id: int
    customer: str


class Plain:
    """Prints its address."""


class Kind(enum.Enum):
    CARD = "card"


def collect(customer_id: int, amount: int = 1, *more: int, note: str = "", **rest: int) -> None:
    """A function with every kind of argument."""


class TestTemplates:
    """Pure: a function, a template, a call; the keys."""

    def test_arguments_are_found_however_they_are_passed(self) -> None:
        """By position, by name, by default, behind a dot."""
        keys = Keys(collect, ["customer:{customer_id}:collect", "{amount}/{note}"])
        assert keys((7,), {"note": "x"}) == ["customer:7:collect", "1/x"]
        assert keys((), {"customer_id": 7, "amount": 2, "note": "y"}) == [
            "customer:7:collect",
            "2/y",
        ]
        dotted = Keys(lambda order: order, "{order.customer}/{order.id}")
        assert dotted((Order(3, "c"),), {}) == ["c/3"]
        assert Keys(collect, "a fixed key {{in braces}}")((7,), {}) == ["a fixed key {in braces}"]

    @pytest.mark.parametrize(
        ("template", "told"),
        [
            ("customer:{custmer_id}", "no argument 'custmer_id'"),
            ("{}", "no argument's name"),
            ("{0}", "no argument's name"),
            ("{customer_id[0]}", "no argument's name"),
            ("{customer_id.__class__}", "no argument's name"),
            ("{customer_id!r}", "rendered by str"),
            ("{customer_id:05d}", "rendered by str"),
            ("{more}", "a collection"),
            ("{rest}", "a collection"),
            ("{customer_id", "expected '}'"),
            ([], "no template"),
        ],
    )
    def test_a_wrong_template_is_an_error_at_decoration(self, template: Any, told: str) -> None:
        """Not at the first payment; and the sentence says what is wrong."""
        with pytest.raises(ValueError, match=told.replace("(", r"\(")):
            Keys(collect, template)

    @pytest.mark.parametrize("value", [None, "", "a\nb", "a\x00", "\x7f", "\x85", Plain()])
    def test_a_value_that_makes_no_key_is_refused_at_the_call(self, value: Any) -> None:
        """Two payments must not share a lock unnoticed, nor one have a lock of its own in each process. The value, which
        may be personal data, is not repeated."""
        with pytest.raises(ValueError, match="customer_id") as refused:
            Keys(collect, "customer:{customer_id}")((value,), {})
        assert repr(value) not in str(refused.value) or value in (None, "")

    def test_everything_that_has_a_str_is_rendered_by_it(self) -> None:
        """Numbers, enumerations, dataclasses."""
        keys = Keys(collect, "{customer_id}")
        assert keys((Kind.CARD,), {}) == ["Kind.CARD"]
        assert keys((1.5,), {}) == ["1.5"]
        assert keys(("zäh/ß",), {}) == ["zäh/ß"]

    def test_a_wrong_call_is_the_function_s_own_error(self) -> None:
        """As without the decorator."""
        with pytest.raises(TypeError, match="customer_id"):
            Keys(collect, "{customer_id}")((), {})


class TestAsync:
    """The asynchronous face."""

    async def test_it_runs_under_the_lock_of_its_arguments(self, kit: Any) -> None:
        """The fence is at hand inside, the result comes out, nothing is held afterwards; the function keeps its face."""
        hf = kit.client()

        @hf.locked("customer:{customer_id}:collect")
        async def capture(customer_id: int, amount: int) -> tuple[int, list[str]]:
            """Take the money."""
            return holdfast.current_grant().fence + amount, list(kit.cluster.holds)

        assert await capture(7, amount=100) == (101, ["customer:7:collect"])
        assert await capture(customer_id=8, amount=100) == (102, ["customer:8:collect"])
        assert kit.cluster.holds == {}
        assert (capture.__name__, capture.__doc__) == ("capture", "Take the money.")
        with pytest.raises(LookupError):
            holdfast.current_grant()

    async def test_what_happens_when_it_is_held(self, kit: Any, eventually: Any) -> None:
        """Raise, skip, wait, wait for a while."""
        hf, ran = kit.client(), []

        async def work(key: str) -> str:
            ran.append(key)
            return "done"

        kit.cluster.take("k")
        with pytest.raises(holdfast.NotAcquired):
            await hf.locked("{key}")(work)("k")
        assert await hf.locked("{key}", on_held="skip")(work)("k") is None
        assert ran == []
        bounded = asyncio.create_task(hf.locked("{key}", on_held="skip", wait=5.0)(work)("k"))
        await eventually(lambda: len(kit.cluster.waiters) == 1)
        kit.cluster.time_out(kit.cluster.waiters[0])
        kit.clock._now += 10.0
        assert await bounded is None
        waiting = asyncio.create_task(hf.locked("{key}", on_held="wait")(work)("k"))
        await eventually(lambda: len(kit.cluster.waiters) == 1)
        kit.cluster.give("k")
        assert await waiting == "done"
        assert ran == ["k"]

    async def test_skip_swallows_only_its_own_refusal(self, kit: Any) -> None:
        """A body that fails to get a lock of its own did not "skip": it failed halfway."""
        hf = kit.client()
        kit.cluster.take("inner")

        @hf.locked("outer", on_held="skip")
        async def work() -> None:
            async with hf.lock("inner"):
                pytest.fail("entered")

        with pytest.raises(holdfast.NotAcquired, match="inner"):
            await work()

    async def test_only_what_runs_inside_is_taken(self, kit: Any) -> None:
        """A plain function or a generator would run after the lock was released."""
        hf = kit.client()

        async def later() -> AsyncIterator[int]:
            yield 1

        for wrong in (lambda: None, later, functools.partial(print)):
            with pytest.raises(TypeError, match="async def"):
                hf.locked("k")(wrong)

    async def test_options_are_checked_at_decoration(self, kit: Any) -> None:
        """Every one of them."""
        hf = kit.client()
        for wrong in ({"wait": -1}, {"ttl": 0}, {"max_hold": 0}, {"on_held": "ignore"}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                hf.locked("k", **wrong)
        with pytest.raises(ValueError, match="as long as it takes"):
            hf.locked("k", on_held="wait", wait=3.0)
        with pytest.raises(TypeError):
            hf.locked("k", tll=3.0)

    async def test_losing_the_lock_cancels_the_function(self, kit: Any) -> None:
        """As in a block."""
        hf = kit.client(ttl=9.0)

        @hf.locked("k", max_hold=2.0)
        async def work() -> None:
            kit.clock.advance(2.1)
            await asyncio.Event().wait()

        with pytest.raises(holdfast.LockLost):
            await work()

    async def test_calls_at_once_have_grants_of_their_own(self, kit: Any, eventually: Any) -> None:
        """`current_grant` is the caller's, not the last one's."""
        hf = kit.client()

        @hf.locked("{key}")
        async def work(key: str) -> bool:
            await asyncio.sleep(0)
            return holdfast.current_grant().key == key

        assert all(await asyncio.gather(*(work(f"k{n}") for n in range(10))))


class TestBlocking:
    """The blocking face."""

    @pytest.fixture
    def hf(self, threaded_cluster: Any) -> Iterator[holdfast.Client]:
        with holdfast.connect_sync(threaded_cluster.urls, timeout=5.0) as client:
            yield client

    def test_it_runs_under_the_lock(self, hf: Any, threaded_cluster: Any) -> None:
        """Also as a method."""

        class Worker:
            @hf.locked(["customer:{customer_id}", "order:{order.id}"])
            def collect(self, customer_id: int, order: Order) -> tuple[int, list[str]]:
                return holdfast.current_grant().fence, sorted(threaded_cluster.holds)

        assert Worker().collect(7, Order(3, "c")) == (1, ["customer:7", "order:3"])
        assert threaded_cluster.holds == {}

    def test_what_happens_when_it_is_held(self, hf: Any, threaded_cluster: Any) -> None:
        """Raise or skip."""
        threaded_cluster.take("k")
        with pytest.raises(holdfast.NotAcquired):
            hf.locked("k")(pytest.fail)("ran")
        assert hf.locked("k", on_held="skip")(pytest.fail)("ran") is None

    def test_what_would_run_later_is_refused(self, hf: Any) -> None:
        """A coroutine function returns before its body has begun."""

        async def coroutine() -> None: ...

        def generator() -> Iterator[int]:
            yield 1

        for wrong in (coroutine, generator):
            with pytest.raises(TypeError, match="after the lock was released"):
                hf.locked("k")(wrong)

    def test_a_thread_re_enters(self, hf: Any, threaded_cluster: Any) -> None:
        """The same grant; released by the outermost."""

        @hf.locked("tree/{depth}", reentrant=True)
        def walk(depth: int, again: bool) -> int:
            token = holdfast.current_grant().token
            assert not again or walk(depth, False) == token
            assert "tree/1" in threaded_cluster.holds
            return token

        assert walk(1, True) == 1
        assert threaded_cluster.holds == {}


class TestReentry:
    """`reentrant=True`, in the client alone: the cluster knows nothing of it."""

    async def test_the_same_task_enters_again_under_the_same_grant(self, kit: Any) -> None:
        """Nothing is asked of the cluster, the token stays, and only the last one out releases."""
        hf = kit.client()
        async with hf.lock(["a", "b"]) as outer:
            asked = len(kit.cluster.seen)
            async with hf.lock("a", reentrant=True) as inner:
                assert inner is outer
            assert set(kit.cluster.holds) == {"a", "b"}
            assert len(kit.cluster.seen) == asked
            with pytest.raises(holdfast.NotAcquired):
                async with hf.lock(["a", "c"], reentrant=True):
                    pytest.fail("half of the keys are held already")
        assert kit.cluster.holds == {}

    async def test_another_task_does_not_enter(self, kit: Any) -> None:
        """A hold belongs to its task."""
        hf = kit.client()

        async def other() -> None:
            async with hf.lock("a", reentrant=True):
                pytest.fail("entered")

        async with hf.lock("a"):
            with pytest.raises(holdfast.NotAcquired):
                await asyncio.create_task(other())

    async def test_the_lock_lasts_until_the_last_block_is_left(self, kit: Any) -> None:
        """Whichever that is: an exit stack may leave the outer one first."""
        hf = kit.client()
        outer, inner = hf.lock("a"), hf.lock("a", reentrant=True)
        await outer.__aenter__()
        grant = await inner.__aenter__()
        await outer.__aexit__(None, None, None)
        assert "a" in kit.cluster.holds
        assert not grant.is_lost
        await inner.__aexit__(None, None, None)
        assert kit.cluster.holds == {}

    async def test_a_plain_hold_can_be_re_entered(self, kit: Any) -> None:
        """And is still released by name."""
        hf = kit.client()
        assert await hf.acquire_lock("a")
        async with hf.lock("a", reentrant=True):
            pass
        assert "a" in kit.cluster.holds
        assert await hf.release_lock("a")
        assert kit.cluster.holds == {}

    async def test_a_loss_ends_every_block_once(self, kit: Any) -> None:
        """One LockLost comes out, and the task is not left cancelled."""
        hf = kit.client(ttl=9.0)
        with pytest.raises(holdfast.LockLost):  # noqa: PT012
            async with hf.lock("a"), hf.lock("a", reentrant=True):
                hf._sessions._shared.end("for a test")
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    async def test_a_lost_hold_is_not_re_entered(self, kit: Any) -> None:
        """It is asked for anew."""
        hf = kit.client(ttl=9.0)
        assert await hf.acquire_lock("a")
        hf._sessions._shared.end("for a test")
        kit.cluster.expire()
        async with hf.lock("a", reentrant=True) as grant:
            assert grant.token == 2
