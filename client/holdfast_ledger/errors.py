"""What the ledger answers when it does not do what it was asked. Every one of these changed nothing, except `CommitUnknown`.

`holdfast.fencing.Stale` belongs to the same family. An exception of the database itself (`sqlalchemy.exc.DBAPIError`: no
connection, a lock that was waited for in vain) comes before the commit, and changed nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, UnknownOutcome

if TYPE_CHECKING:
    from holdfast_ledger.schema import Payment


class Duplicate(HoldfastError):
    """This payment has already been captured (or refunded): by an earlier delivery of the message, as a rule.

    What to do: treat the message as done, unless `differences` says that it asked for something else under the same name.
    """

    def __init__(self, recorded: Payment, differences: tuple[str, ...]) -> None:
        """`recorded` is what the ledger has; `differences` names the fields in which the request departs from it."""
        odd = f"; the request differs in {', '.join(differences)}" if differences else ""
        super().__init__(f"{recorded.action} of this payment is already recorded{odd}")
        self.recorded = recorded
        self.differences = differences

    def __reduce__(self) -> tuple[type[Duplicate], tuple[Payment, tuple[str, ...]]]:
        """Errors cross process pools; the default would lose an argument."""
        return type(self), (self.recorded, self.differences)


class NotCaptured(HoldfastError):
    """A refund of a payment that was never captured. What to do: try again after the capture, or report the message."""


class RefundRefused(HoldfastError):
    """A refund that does not fit its capture: another customer or currency, or a larger amount. Report the message."""


class CommitUnknown(UnknownOutcome):
    """The commit was sent, and its answer was lost: the transaction took effect, or it did not.

    What to do: ask again with the same arguments, as long as you hold the lock. If it took effect, a capture or refund is answered
    with `Duplicate` without `differences`; a floor that was raised passes once more. Do not answer the customer before you know.
    """


class Unbalanced(HoldfastError):
    """The books do not add up. What to do: stop paying, and look at the payments that the text names."""
