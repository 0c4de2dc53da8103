"""Why connections were closed: always counted, and told to the operator where the operator can mend it.

Rule: a reason is one of a few fixed words, so that the counter stays small. A node that cannot get in tries again many times a
second; the log tells it once, and again after an hour, or after the peer was connected in between.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from holdfast_coordinator.raft import tls

TOLD_AGAIN_SECONDS: Final = 3600.0
"""Somebody who reads only today's log should find it there."""

BROKEN_OFF = "TLS broken off"

_FILES = "look at `raft_tls` of both nodes"
_CA = f"it is not signed by the CA of this node; {_FILES}"

ADVICE: Final = {
    "wrong secret": "it has another cluster secret",
    "another cluster": "it belongs to a cluster of another name, or of another incarnation",
    tls.NO_TLS: "it speaks without TLS; give `raft_tls` to all nodes or to none",
    tls.UNEXPECTED_TLS: "it speaks TLS; give `raft_tls` to all nodes or to none",
    BROKEN_OFF: f"it ended the connection while TLS began; its log may say why, or it has no `raft_tls`; {_FILES}",
    tls.NO_CERTIFICATE: "it shows no certificate",
    tls.OWN_CERTIFICATE_REFUSED: f"it refuses the certificate of this node; {_FILES}",
    tls.ANOTHER_NODES_CERTIFICATE: "its certificate does not name it: its subjectAltName must hold DNS:<name of the node>",
    tls.TLS_FAILED: "TLS between the two fails",
    "certificate of an unknown CA": _CA,
    "certificate expired": "its certificate has expired, by the clock of this machine",
    "certificate not yet valid": "its certificate is not valid yet, by the clock of this machine",
    "certificate refused": f"its certificate is not good for this; {_FILES}",
}
"""The reasons that are told. The others are counted only: noise of a network, or what the peer book tells (`engine`)."""

log = logging.getLogger(__name__)


class Rejections:
    """Of one node."""

    def __init__(self, node: str) -> None:
        self.counts: Counter[str] = Counter()
        self._node = node
        self._told_at: dict[tuple[str, str], float] = {}
        """By (peer, reason); both are few: a stranger has no name here."""

    def add(self, reason: str, *, peer: str | None, at: str, detail: str, now: float) -> None:
        """`peer`: whom we dialed, or whose name the other side gives; `at`: its address; `now`: seconds of any clock."""
        self.counts[reason] += 1
        advice = ADVICE.get(reason)
        before = self._told_at.get((peer or "", reason))
        if advice is None or (before is not None and now - before < TOLD_AGAIN_SECONDS):
            return
        self._told_at[peer or "", reason] = now
        who = f"{peer} ({at})" if peer else at
        said = f" ({detail})" if detail else ""
        log.warning(
            "%s closed a connection with %s: %s%s; %s", self._node, who, reason, said, advice
        )

    def forget(self, peer: str) -> None:
        """It is connected: what comes after this is news."""
        for key in [key for key in self._told_at if key[0] == peer]:
            del self._told_at[key]
