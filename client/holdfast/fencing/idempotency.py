"""The name under which a payment goes to a provider outside, which never looks at a fence.

The rule: the key comes from the payment alone. Every holder that ever works on a payment, stale or current, sends the same key,
so the provider collapses their calls into one. Were the token in it, each holder would pay once more. A wish for another attempt
(a card that was declined, and a customer who tries again) is a new payment, or a number of the attempt that YOUR database keeps, in
`action`; never a number that comes with the lock.

It does not know for how long a provider remembers a key (some only a day). After an unclean end, ask the provider what it has
before you send anything again.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from typing import Final

__all__ = ["NAMESPACE", "TEXT_CHARACTERS", "UUID_CHARACTERS", "idempotency_key", "idempotency_uuid"]

_DIGEST_CHARACTERS: Final = 40
"""160 bits: no two payments of this world share a key."""

TEXT_CHARACTERS: Final = len("holdfast-") + _DIGEST_CHARACTERS
"""How long `idempotency_key` is (49). Stripe takes 255 characters, Adyen 64, Plaid 50 for a refund."""

UUID_CHARACTERS: Final = 36
"""How long `idempotency_uuid` is. For providers that want a UUID, or take fewer characters (Square: 45)."""

NAMESPACE: Final = uuid.UUID("8a9b6c3e-52f1-5d0a-9f27-3f6b1a7c4e55")
"""The namespace of `idempotency_uuid`, made once, for ever: another one is another name for every payment."""


def idempotency_key(payment: str, action: str, *, secret: bytes | None = None) -> str:
    """Return the idempotency key of `action` ("capture", "refund", or a caller's own) on `payment`: the same for ever.

    49 characters: letters, digits and one `-`. `payment` is the id of the payment, or the key of its lock if there is a lock for
    each payment. It is a hash, so that a payment id that is personal data does not travel in a header. Whoever can guess the id
    can check the guess, unless a `secret` is given: then it is an HMAC. Keep that secret as long as the payments: another one is
    another name. Raises `TypeError` for anything but text, a token above all.
    """
    name = _name(payment, action)
    digest = hashlib.sha256(name) if secret is None else hmac.new(secret, name, hashlib.sha256)
    return f"holdfast-{digest.hexdigest()[:_DIGEST_CHARACTERS]}"


def idempotency_uuid(payment: str, action: str, *, secret: bytes | None = None) -> str:
    """Return the same name as a UUID of version 5 (RFC 9562): 36 characters, 122 bits.

    Any language computes the same one: in `NAMESPACE`, from the text that `idempotency_key` returns.
    """
    return str(uuid.uuid5(NAMESPACE, idempotency_key(payment, action, secret=secret)))


def _name(payment: str, action: str) -> bytes:
    """The length of each part stands before it: ("a", "bc") and ("ab", "c") differ."""
    name = b""
    for part in (action, payment):
        if not isinstance(part, str):
            raise TypeError(
                f"an idempotency key is made from text, not from {part!r}: a token or a fence would pay once for each holder"
            )
        if not part:
            raise ValueError("an idempotency key needs the payment and the action")
        raw = part.encode()
        name += len(raw).to_bytes(8, "big") + raw
    return name
