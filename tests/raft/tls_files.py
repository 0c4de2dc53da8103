"""Certificates for tests, made by a CA that lives as long as one test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trustme

from holdfast_coordinator.certificates import CertificateFiles

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = (datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))
FAR_AHEAD = (datetime(2090, 1, 1, tzinfo=UTC), datetime(2091, 1, 1, tzinfo=UTC))


class Authority:
    """A CA and the files of the nodes that it has signed, in one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(
        self,
        node: str,
        *names: str,
        valid: tuple[datetime, datetime] | None = None,
        trusts: Authority | None = None,
    ) -> CertificateFiles:
        """Files for `node`, whose certificate holds `names` (its own, if none is given), within the dates `valid`."""
        begin, end = valid if valid is not None else (None, None)
        leaf = self._ca.issue_cert(*(names or (node,)), not_before=begin, not_after=end)
        files = self.files(node, trusts=trusts)
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        files.key.write_bytes(leaf.private_key_pem.bytes())
        files.key.chmod(0o600)
        return files

    def files(self, node: str, *, trusts: Authority | None = None) -> CertificateFiles:
        """Where the files of `node` are."""
        ca = self.ca if trusts is None else trusts.ca
        return CertificateFiles(ca, self.directory / f"{node}.pem", self.directory / f"{node}.key")

    def settings(self) -> str:
        """For cluster.yml: these files, for every node."""
        return (
            f"raft_tls:\n  ca: {self.ca}\n"
            f"  certificate: {self.directory}/{{node}}.pem\n  key: {self.directory}/{{node}}.key"
        )
