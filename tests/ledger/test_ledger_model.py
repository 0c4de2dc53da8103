"""The ledger against a naive model of it: whatever holders come in whatever order, the answers agree."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from holdfast.fencing import Stale
from holdfast_ledger import Duplicate, Ledger, NotCaptured, RefundRefused
from holdfast_ledger.schema import metadata

KEYS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3)
FENCES = st.integers(1, 12)
PAYMENTS = st.sampled_from(["p1", "p2", "p3"])
AMOUNTS = st.integers(1, 3)
CURRENCIES = st.sampled_from(["EUR", "USD"])


class LedgerModel(RuleBasedStateMachine):
    """Floors are a dict, payments are a dict, balances are sums."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.ledger = Ledger(target)
        with self.ledger._database.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.floors: dict[str, int] = {}
        self.payments: dict[tuple[str, str], tuple[int, str]] = {}
        self.balances: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        self.ledger.close()

    def expected(
        self, keys: list[str], payment: str, action: str, amount: int, currency: str, fence: int
    ) -> type | None:
        """Which refusal is due, in the order of the contract; None: it is recorded."""
        if any(self.floors.get(key, 0) > fence for key in keys):
            return Stale
        if (payment, action) in self.payments:
            return Duplicate
        if action == "refund":
            captured = self.payments.get((payment, "capture"))
            if captured is None:
                return NotCaptured
            if captured[1] != currency or captured[0] < amount:
                return RefundRefused
        return None

    @rule(keys=KEYS, fence=FENCES)
    def raise_floor(self, keys: list[str], fence: int) -> None:
        stale = any(self.floors.get(key, 0) > fence for key in keys)
        try:
            self.ledger.raise_floor(keys, fence)
        except Stale:
            assert stale
        else:
            assert not stale
            self.floors.update(dict.fromkeys(keys, fence))

    @rule(
        keys=KEYS,
        payment=PAYMENTS,
        action=st.sampled_from(["capture", "refund"]),
        amount=AMOUNTS,
        currency=CURRENCIES,
        fence=FENCES,
    )
    def move(
        self, keys: list[str], payment: str, action: str, amount: int, currency: str, fence: int
    ) -> None:
        expected = self.expected(keys, payment, action, amount, currency, fence)
        call = self.ledger.capture if action == "capture" else self.ledger.refund
        try:
            call(keys, payment=payment, customer="c", amount=amount, currency=currency, fence=fence)
        except (Stale, Duplicate, NotCaptured, RefundRefused) as error:
            actual: type | None = type(error)
        else:
            actual = None
        assert actual is expected
        if actual is not None:
            return
        self.floors.update(dict.fromkeys(keys, fence))
        self.payments[payment, action] = (amount, currency)
        signed = amount if action == "capture" else -amount
        for account, change in (("customers/c", -signed), ("revenue", signed)):
            self.balances[account, currency] = self.balances.get((account, currency), 0) + change

    @invariant()
    def books_agree(self) -> None:
        assert self.ledger.balances() == self.balances
        books = self.ledger.check_balanced()
        assert books.captures + books.refunds == len(self.payments)
        assert {key: self.ledger.floor(key) for key in "abc"} == {
            key: self.floors.get(key) for key in "abc"
        }


def test_the_ledger_does_what_the_model_does(target: str) -> None:
    """Stale first, then duplicate, then what does not fit: on both databases."""
    run_state_machine_as_test(
        lambda: LedgerModel(target),
        settings=settings(max_examples=12, stateful_step_count=25, deadline=None),
    )
