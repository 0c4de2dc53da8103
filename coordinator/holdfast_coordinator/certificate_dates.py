"""Until when a certificate is good: the one field of it that an operator has to watch.

Rule: only the dates are read, from the DER, along the fixed way to them (RFC 5280, 4.1). Whether anybody trusts the certificate is
decided elsewhere (`certificates.py`), by the TLS library.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

BEGIN: Final = "-----BEGIN CERTIFICATE-----"
END: Final = "-----END CERTIFICATE-----"
PEM_BYTES_MAX: Final = 1 << 20
"""A chain of certificates has some KiB."""

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def not_after_ms(path: Path) -> int:
    """Unix milliseconds at which the first of the certificates in a PEM file to end does so. Raises ValueError, OSError."""
    with path.open("rb") as file:
        text = file.read(PEM_BYTES_MAX).decode("ascii", "replace")
    ends = [_not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _certificates(text)]
    if not ends:
        raise ValueError("it holds no certificate in PEM form")
    return int(min(ends).timestamp() * 1000)


def _certificates(text: str) -> list[str]:
    parts = text.split(BEGIN)[1:]
    return [BEGIN + part.partition(END)[0] + END for part in parts]


def _not_after(der: bytes) -> datetime:
    """Certificate -> TBSCertificate -> (version), serial number, signature, issuer, validity -> notBefore, notAfter."""
    certificate = _expect(der, _SEQUENCE)[0]
    fields = _expect(certificate, _SEQUENCE)[0]
    tag, _, rest = _element(fields)
    if tag == _VERSION:
        _, _, rest = _element(rest)
    for _ in ("signature", "issuer"):
        _, _, rest = _element(rest)
    validity = _expect(rest, _SEQUENCE)[0]
    _, _, rest = _element(validity)
    tag, value, _ = _element(rest)
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year: 50 to 99 are of the last century.
        text = ("19" if text >= "5" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("its date is none")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _expect(data: bytes, tag: int) -> tuple[bytes, bytes]:
    found, value, rest = _element(data)
    if found != tag:
        raise ValueError("it is not a certificate")
    return value, rest


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, value, and what follows. Raises ValueError."""
    if len(data) < 2:
        raise ValueError("it is cut short")
    length, begin = data[1], 2
    if length >= 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin], "big")
    if len(data) < begin + length:
        raise ValueError("it is cut short")
    return data[0], data[begin : begin + length], data[begin + length :]
