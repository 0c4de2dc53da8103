"""The name of a payment for a provider: the same for every holder, for ever."""

from __future__ import annotations

import uuid

import pytest

from holdfast.fencing.idempotency import (
    NAMESPACE,
    TEXT_CHARACTERS,
    UUID_CHARACTERS,
    idempotency_key,
    idempotency_uuid,
)
from holdfast_ledger import idempotency_key as of_the_ledger

SECRET = b"kept as long as the payments"


def test_the_key_is_pinned_for_ever() -> None:
    """A release that changed one of these would let every open payment be captured once more."""
    assert idempotency_key("p-1", "capture") == "holdfast-375be3ef9a0a811326ef191e9e8aba46b141f777"
    assert idempotency_uuid("p-1", "capture") == "3ab24574-898b-5fb5-8752-609139251a6c"
    assert (
        idempotency_key("p-1", "capture", secret=b"s")
        == "holdfast-bbda7fd253cb653129856a220195e6e4eb3a66c8"
    )
    assert idempotency_uuid("p-1", "capture", secret=b"s") == "0a999ef9-0e3d-5bb6-953b-03c5a3d85932"
    assert of_the_ledger is idempotency_key


def test_the_key_tells_payments_actions_and_secrets_apart() -> None:
    """Two that could be confused by joining their text are two."""
    pairs = [("p-1", "capture"), ("p-1", "refund"), ("bc", "a"), ("c", "ab"), ("p-1", "capture/2")]
    for make in (idempotency_key, idempotency_uuid):
        names = [make(*pair, secret=secret) for pair in pairs for secret in (None, SECRET, b"x")]
        assert len(set(names)) == len(names)


def test_the_lengths_are_what_providers_take() -> None:
    """However long the payment's own id is."""
    for payment in ("x", "x" * 10_000, "Zoë"):
        assert len(idempotency_key(payment, "capture")) == TEXT_CHARACTERS == 49
        assert len(idempotency_uuid(payment, "capture")) == UUID_CHARACTERS == 36


def test_the_uuid_is_one_that_other_languages_compute() -> None:
    """Version 5, from the text key."""
    made = uuid.UUID(idempotency_uuid("p-1", "capture"))
    assert made.version == 5
    assert made == uuid.uuid5(NAMESPACE, idempotency_key("p-1", "capture"))


@pytest.mark.parametrize("payment", [34, None, b"p-1"])
def test_a_token_is_refused_by_type(payment: object) -> None:
    """The mistake that pays twice is said in a sentence."""
    with pytest.raises(TypeError, match="once for each holder"):
        idempotency_key(payment, "capture")  # type: ignore[arg-type]


@pytest.mark.parametrize(("payment", "action"), [("", "capture"), ("p-1", "")])
def test_an_empty_part_is_refused(payment: str, action: str) -> None:
    """An id that was forgotten would make all payments one."""
    with pytest.raises(ValueError, match="needs the payment and the action"):
        idempotency_key(payment, action)
