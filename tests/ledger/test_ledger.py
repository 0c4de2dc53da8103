"""The ledger: stale first, then duplicate, then balanced entries, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast.fencing import Stale
from holdfast_ledger import (
    AsyncLedger,
    Books,
    Duplicate,
    Ledger,
    NotCaptured,
    Payment,
    RefundRefused,
    Unbalanced,
)

if TYPE_CHECKING:
    from pathlib import Path

KEY = "payments/1234/collect"


def order(payment: str = "p-1", **changes: Any) -> dict[str, Any]:
    return {"payment": payment, "customer": "1234", "amount": 1999, "currency": "EUR"} | changes


def test_a_capture_posts_balanced_entries(ledger: Ledger) -> None:
    """One capture moves its amount from the customer to revenue; the books sum to zero."""
    captured = ledger.capture(KEY, **order(), fence=7)
    assert captured == Payment("p-1", "capture", "1234", 1999, "EUR", 7)
    assert ledger.payment("p-1") == captured
    assert ledger.balances() == {("customers/1234", "EUR"): -1999, ("revenue", "EUR"): 1999}
    assert ledger.check_balanced() == Books(
        captures=1, refunds=0, entries=2, turnover={"EUR": 1999}
    )
    assert ledger.floor(KEY) == 7


def test_a_frozen_holder_is_refused_as_stale_and_not_as_a_duplicate(ledger: Ledger) -> None:
    """time 0: fence 7 raises the floor and stalls; time 1: fence 9 captures; time 2: fence 7 wakes up and writes: stale."""
    ledger.raise_floor(KEY, 7)
    ledger.raise_floor(KEY, 9)
    ledger.capture(KEY, **order(), fence=9)
    with pytest.raises(Stale) as caught:
        ledger.capture(KEY, **order(), fence=7)
    assert (caught.value.fence, caught.value.highest) == (7, 9)
    assert ledger.check_balanced().captures == 1


def test_raise_floor_closes_the_door_before_anything_is_captured(ledger: Ledger) -> None:
    """Between the new holder's `raise_floor` and its capture the old one cannot slip in."""
    ledger.raise_floor(KEY, 9)
    with pytest.raises(Stale):
        ledger.capture(KEY, **order(), fence=7)
    with pytest.raises(Stale):
        ledger.raise_floor(KEY, 8)
    assert ledger.payment("p-1") is None
    assert ledger.balances() == {}


def test_not_even_the_current_holder_captures_twice(ledger: Ledger) -> None:
    """The unique payment name refuses a second capture, under the same fence and under a later one."""
    ledger.capture(KEY, **order(), fence=7)
    for fence in (7, 8):
        with pytest.raises(Duplicate) as caught:
            ledger.capture(KEY, **order(), fence=fence)
        assert caught.value.recorded.fence == 7
        assert caught.value.differences == ()
    assert ledger.check_balanced().entries == 2
    assert ledger.floor(KEY) == 7, "a refusal changes nothing, the floor included"


def test_a_duplicate_that_asks_for_something_else_says_so(ledger: Ledger) -> None:
    """The same payment name with another amount is a fault of the sender that somebody must see."""
    ledger.capture(KEY, **order(), fence=7)
    with pytest.raises(Duplicate, match="differs in amount, currency") as caught:
        ledger.capture(KEY, **order(amount=5, currency="USD"), fence=8)
    assert caught.value.differences == ("amount", "currency")


def test_several_keys_move_their_fences_in_the_same_transaction(ledger: Ledger) -> None:
    """A capture under two keys is stale if either has seen a later holder, and then moves neither."""
    ledger.raise_floor("orders/9", 20)
    with pytest.raises(Stale):
        ledger.capture(["customers/1", "orders/9"], **order(), fence=19)
    assert ledger.floor("customers/1") is None
    ledger.capture(["orders/9", "customers/1"], **order(), fence=21)
    assert (ledger.floor("customers/1"), ledger.floor("orders/9")) == (21, 21)


def test_a_refund_gives_back_once(ledger: Ledger) -> None:
    """A refund reverses the entries, whole or in part, once."""
    ledger.capture(KEY, **order(), fence=7)
    ledger.refund("payments/1234/refund", **order(amount=999), fence=8)
    assert ledger.balances() == {("customers/1234", "EUR"): -1000, ("revenue", "EUR"): 1000}
    with pytest.raises(Duplicate):
        ledger.refund("payments/1234/refund", **order(amount=999), fence=9)
    assert ledger.check_balanced() == Books(
        captures=1, refunds=1, entries=4, turnover={"EUR": 2998}
    )


def test_a_refund_needs_its_capture(ledger: Ledger) -> None:
    """Nothing is given back that was not taken; and a later attempt, after the capture, succeeds."""
    with pytest.raises(NotCaptured):
        ledger.refund("r", **order(), fence=7)
    assert ledger.payment("p-1", "refund") is None
    ledger.capture(KEY, **order(), fence=8)
    ledger.refund("r", **order(), fence=9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount": 2000}, "2000 cannot"),
        ({"customer": "9"}, "another customer"),
        ({"currency": "USD"}, "captured in EUR"),
    ],
)
def test_a_refund_fits_its_capture(ledger: Ledger, changes: dict[str, Any], reason: str) -> None:
    """Not more than was taken, not to somebody else, not in another currency."""
    ledger.capture(KEY, **order(), fence=7)
    with pytest.raises(RefundRefused, match=reason):
        ledger.refund("r", **order(**changes), fence=8)
    assert ledger.check_balanced().refunds == 0


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"amount": 0}, ValueError, "amount"),
        ({"amount": -5}, ValueError, "amount"),
        ({"amount": 10**12 + 1}, ValueError, "amount"),
        ({"amount": 19.99}, TypeError, "amount"),
        ({"amount": True}, TypeError, "amount"),
        ({"amount": "1999"}, TypeError, "amount"),
        ({"currency": "eur"}, ValueError, "currency"),
        ({"currency": "EURO"}, ValueError, "currency"),
        ({"currency": "ÄÖÜ"}, ValueError, "currency"),
        ({"currency": None}, TypeError, "currency"),
        ({"payment": ""}, ValueError, "payment"),
        ({"payment": "x" * 257}, ValueError, "payment"),
        ({"payment": 7}, TypeError, "payment"),
        ({"customer": "a\tb"}, ValueError, "customer"),
        ({"customer": "\udfff"}, ValueError, "customer"),
        ({"fence": None}, TypeError, "fence"),
    ],
)
def test_what_is_not_a_payment_is_refused_by_name(
    ledger: Ledger, changes: dict[str, Any], error: type[Exception], field: str
) -> None:
    """A wrong value names its field, and nothing reaches the books."""
    with pytest.raises(error, match=field):
        ledger.capture(KEY, **({"fence": 7} | order(**changes)))
    assert ledger.balances() == {}
    assert ledger.floor(KEY) is None


def test_what_was_captured_is_there_after_reopening(target: str) -> None:
    """The database is the ledger; opening it again creates nothing anew."""
    with Ledger(target) as first:
        first.capture(KEY, **order(), fence=7)
    with Ledger(target) as second:
        assert second.check_balanced().captures == 1
        with pytest.raises(Stale):
            second.raise_floor(KEY, 6)


def test_a_path_is_a_sqlite_file(tmp_path: Path) -> None:
    """Nothing to set up: a file that is made on the first use."""
    with Ledger(tmp_path / "ledger.db") as by_path:
        by_path.capture(KEY, **order(), fence=7)
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as by_url:
        assert by_url.check_balanced().captures == 1


def test_sqlite_is_set_up_to_keep_what_it_acknowledged(tmp_path: Path) -> None:
    """WAL with synchronous=FULL (2): a commit that was answered survives a power loss."""
    with (
        Ledger(tmp_path / "ledger.db") as ledger,
        ledger._database.engine.connect() as connection,
    ):
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def test_books_that_were_tampered_with_are_noticed(ledger: Ledger) -> None:
    """An entry changed, removed or doubled behind the ledger's back makes the check fail and name the payment."""
    ledger.capture(KEY, **order(), fence=7)
    ledger.capture(KEY, **order("p-2"), fence=8)
    for damage in (
        "UPDATE entries SET amount = amount + 1 WHERE payment = 'p-2' AND amount > 0",
        "UPDATE entries SET amount = 2 * amount WHERE payment = 'p-2'",
        "DELETE FROM entries WHERE payment = 'p-2'",
    ):
        with ledger._database.engine.begin() as raw:
            raw.exec_driver_sql(damage)
        with pytest.raises(Unbalanced, match="capture p-2"):
            ledger.check_balanced()


def test_an_unknown_database_is_refused() -> None:
    """A URL of a database whose statement nobody has tried is refused at once."""
    with pytest.raises(NotImplementedError, match="not on mysql"):
        Ledger("mysql+pymysql://localhost/x")


async def test_the_ledger_serves_asyncio(ledger: Ledger) -> None:
    """The asynchronous face gives the same answers and errors."""
    books = AsyncLedger(ledger)
    await books.raise_floor(KEY, 7)
    await books.capture(KEY, **order(), fence=7)
    await books.refund("r", **order(), fence=8)
    with pytest.raises(Duplicate):
        await books.capture(KEY, **order(), fence=9)
    with pytest.raises(Stale):
        await books.raise_floor(KEY, 6)


def test_a_ledger_in_memory_works() -> None:
    """For the tests of others: no file at all."""
    with Ledger("sqlite://") as ledger:
        ledger.capture(KEY, **order(), fence=1)
        assert ledger.check_balanced().captures == 1


def test_refusals_can_be_counted(target: str) -> None:
    """Each `Stale` is told to `on_refused`, where a metric is kept; a duplicate is none."""
    refused: list[Stale] = []
    with Ledger(target, on_refused=refused.append) as ledger:
        ledger.capture(KEY, **order(), fence=9)
        with pytest.raises(Duplicate):
            ledger.capture(KEY, **order(), fence=9)
        with pytest.raises(Stale):
            ledger.capture(KEY, **order("p-2"), fence=8)
        with pytest.raises(Stale):
            ledger.raise_floor(KEY, 7)
    assert [(stale.fence, stale.highest) for stale in refused] == [(8, 9), (7, 9)]
