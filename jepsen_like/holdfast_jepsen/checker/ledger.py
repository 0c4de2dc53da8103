"""What the ledger decided, against what the lock granted.

Rule: pure; returns sentences, none if all is well. In the order of the ledger's decisions:

* the fences that it accepted never fall, key by key;
* a payment is captured once, and a message is settled only after its payment was captured;
* every fence that it accepted is the token of a grant of that key, to whoever presented it.

That the books balance is asked of the ledger itself (`Books.close`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from holdfast_jepsen.history import History
    from holdfast_jepsen.workloads.ledger import Write


def check(history: History, writes: Sequence[Write], settled: Collection[str]) -> list[str]:
    """`writes`: as the ledger decided them; `settled`: payments whose message was taken off the queue."""
    accepted = [each for each in writes if each.answer == "ok"]
    return [*_falling(accepted), *_captured_once(accepted, settled), *_granted(history, accepted)]


def _falling(accepted: Sequence[Write]) -> list[str]:
    highest: dict[str, int] = {}
    found = []
    for each in accepted:
        if each.fence < highest.get(each.key, 0):
            found.append(
                f"{each.key}: the ledger took fence {each.fence} of {each.process} after {highest[each.key]}"
            )
        highest[each.key] = max(highest.get(each.key, 0), each.fence)
    return found


def _captured_once(accepted: Sequence[Write], settled: Collection[str]) -> list[str]:
    by_payment: dict[str, list[Write]] = {}
    for each in accepted:
        if each.payment:
            by_payment.setdefault(each.payment, []).append(each)
    found = [
        f"payment {payment} was captured {len(each)} times: under tokens {', '.join(str(w.fence) for w in each)}"
        for payment, each in by_payment.items()
        if len(each) > 1
    ]
    lost = sorted(set(settled) - set(by_payment))
    return found + [f"payment {each} was settled and never captured" for each in lost]


def _granted(history: History, accepted: Sequence[Write]) -> list[str]:
    granted = {
        (each.process, key, each.token)
        for each in history.operations
        if each.kind == "acquire" and each.result == "ok"
        for key in each.keys
    }
    return [
        f"{each.key}: the ledger took fence {each.fence} of {each.process}, which was not granted it"
        for each in accepted
        if (each.process, each.key, each.fence) not in granted
    ]
