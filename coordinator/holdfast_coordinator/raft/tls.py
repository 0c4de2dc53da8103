"""TLS without a socket: bytes of the network in, what the peer said out; and the other way round.

Rule: a connection says and hears nothing before the peer has shown a certificate that this node's CA has signed. Whatever OpenSSL
refuses ends it for one of the few fixed reasons below, and the alert that tells the peer is there to be sent.

Not known here: sockets, and whose name has to be in the certificate (`transport` asks `names`).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from holdfast_coordinator.certificates import names_of, why_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast_coordinator.certificates import Contexts

HANDSHAKE_BYTES_MAX: Final = 512 * 1024
"""What a stranger may send before TLS is established. OpenSSL takes a chain of 100 KiB; event loops read 256 KiB at once."""

READ_BYTES: Final = 64 * 1024
"""Taken out at once; a record holds 16 KiB."""

NO_TLS_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x46"
"""Fatal, protocol_version: what OpenSSL does not say to whoever speaks something else."""

_HANDSHAKE_RECORD = 0x16
_RECORDS = frozenset({0x15, _HANDSHAKE_RECORD})
"""First byte of an alert, or of the first message of a handshake. Then comes the version's major number, 3."""

NO_TLS = "no TLS"
UNEXPECTED_TLS = "unexpected TLS"
NO_CERTIFICATE = "no certificate"
OWN_CERTIFICATE_REFUSED = "own certificate refused by peer"
ANOTHER_NODES_CERTIFICATE = "certificate of another node"
TLS_FAILED = "TLS failed"


class TlsError(Exception):
    """The connection is over. `reason` is one of a few fixed ones; `detail` is OpenSSL's word for it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def looks_like_tls(head: bytes) -> bool:
    """Whether the first bytes of a connection are those of TLS. As the length of a hello they would be far over the limit."""
    return len(head) >= 3 and head[0] in _RECORDS and head[1] == 3 and head[2] in (1, 2, 3, 4)


class TlsPipe:
    """One end of one connection. After each call, what `take` gives has to be written to the socket."""

    def __init__(self, contexts: Contexts, *, dials: bool) -> None:
        self.is_open = False
        """The handshake is done: the peer's certificate is good. (Whether ours is, a dialer learns later.)"""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = contexts.dialer if dials else contexts.acceptor
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=not dials)
        self._received_bytes = 0

    @property
    def names(self) -> frozenset[str]:
        """What the peer's certificate says who it is, in lower case; empty before the handshake is done."""
        return names_of(self._tls.getpeercert()) if self.is_open else frozenset()

    def take(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()

    def begin(self) -> None:
        """Of a dialer: the first message."""
        self._shake_hands()

    def feed(self, data: bytes) -> bool:
        """Take in what has arrived. True: with it the handshake was finished. Raises `TlsError`."""
        self._incoming.write(data)
        if self.is_open:
            return False
        if self._received_bytes == 0 and data[0] not in _RECORDS:
            self._outgoing.write(NO_TLS_ALERT)
            raise TlsError(NO_TLS)
        self._received_bytes += len(data)
        if self._received_bytes > HANDSHAKE_BYTES_MAX:
            raise TlsError(TLS_FAILED, "too long a handshake")
        return self._shake_hands()

    def read(self) -> Iterator[bytes]:
        """What the peer said, as far as it is here. Raises `TlsError`."""
        while True:
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError as error:
                raise _explain(error) from None
            if not data:
                return  # the peer will say no more
            yield data

    def write(self, data: bytes) -> None:
        """Say something. Only when it is open."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _explain(error) from None
        self.is_open = True
        return True


def _explain(error: ssl.SSLError) -> TlsError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(why_refused(error), error.verify_message)
    word = error.reason or type(error).__name__
    if word == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TlsError(NO_CERTIFICATE)
    if "ALERT" in word and ("CERTIFICATE" in word or "UNKNOWN_CA" in word):
        return TlsError(OWN_CERTIFICATE_REFUSED, word)
    if "ALERT_PROTOCOL_VERSION" in word:
        return TlsError(NO_TLS, word)
    return TlsError(TLS_FAILED, word)
