"""Three real processes that speak HTTPS and ask for identities."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from signal import Signals

import aiohttp
import pytest
import trustme

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

TRIES = 10
UNREACHABLE = 69
OPERATOR = "holdfast_the-operator-of-a-test"

SETTINGS = f"""
http_tls: {{certificate: "tls/{{node}}.pem", key: "tls/{{node}}.key", ca: callers.pem}}
access:
  identities:
    - name: worker
      certificate_names: [worker.example]
      may: [{{rights: [acquire], prefixes: [payments/]}}]
    - name: operator
      bearer_sha256: [{hashlib.sha256(OPERATOR.encode()).hexdigest()}]
      may: [{{rights: [read, force]}}, {{rights: [admin]}}]
"""


def issue(ca: trustme.CA, path: Path, name: str) -> None:
    leaf = ca.issue_cert(name)
    leaf.cert_chain_pems[0].write_to_path(path.with_suffix(".pem"))
    leaf.private_key_pem.write_to_path(path.with_suffix(".key"))


async def command(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit code and what was printed of one `holdfast`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast", *arguments),
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()


async def answer(environ: dict[str, str], *arguments: str) -> str:
    """What a command that only looks printed, once it got an answer: a command gives up after five seconds, which a busy machine
    may need for nothing."""
    for _ in range(TRIES):
        exit_code, said = await command(environ, *arguments)
        if exit_code != UNREACHABLE:
            break
    assert exit_code == 0, said
    return said


async def test_workers_and_operators_over_https_through_a_failover_and_new_certificates(
    tmp_path: Path,
) -> None:
    """A worker locks by its certificate, keeps its lock while the leader is killed, and is seen by an operator with a bearer token,
    who forces it out. Then every node has a certificate of another CA, without a restart. Whoever is nobody gets nothing."""
    ca, callers, newer = trustme.CA(), trustme.CA(), trustme.CA()
    (tmp_path / "tls").mkdir()
    callers.cert_pem.write_to_path(tmp_path / "callers.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for node in ("n1", "n2", "n3"):
        issue(ca, tmp_path / "tls" / node, "127.0.0.1")
    issue(callers, tmp_path / "worker", "worker.example")
    (tmp_path / "bearer").write_text(OPERATOR)
    probe = holdfast.tls_context(ca_file=tmp_path / "ca.pem")
    shown = holdfast.tls_context(
        ca_file=tmp_path / "ca.pem",
        certificate_file=tmp_path / "worker.pem",
        key_file=tmp_path / "worker.key",
    )
    environ = {
        "HOLDFAST_BEARER_FILE": str(tmp_path / "bearer"),
        "HOLDFAST_CA_FILE": str(tmp_path / "ca.pem"),
    }
    async with LocalCluster(tmp_path, settings=SETTINGS, tls=probe) as cluster:
        assert cluster.endpoints.startswith("https://")
        environ["HOLDFAST_ENDPOINTS"] = cluster.endpoints
        async with holdfast.connect(cluster.endpoints, tls=shown, ttl=60, timeout=40) as worker:
            async with worker.lock("payments/1") as grant:
                said = await answer(environ, "status", "--json")
                await cluster.kill(json.loads(said)["leader"], Signals.SIGKILL)
                async with worker.lock("payments/2", wait=40):
                    assert grant.remaining() > 0
                assert "payments/1" in await answer(environ, "ls", "--json")
                with pytest.raises(holdfast.NotAllowed):
                    await worker.read_lock("payments/1")
                with pytest.raises(holdfast.NotAllowed):
                    await worker.acquire_lock("invoices/1")
            assert await worker.acquire_lock("payments/3")
            token = json.loads(await answer(environ, "show", "payments/3", "--json"))["holders"][0]
            force = ("force", "payments/3", "--reason", "a test", "--operator", "Ann")
            await answer(environ, *force, "--token", str(token["token"]))  # may be said again
        logs = "".join(cluster.log(node) for node in cluster.names)
        audits = [json.loads(line) for line in logs.splitlines() if '"event": "audit"' in line]
        assert ("operator", "done") in [(each["identity"], each["outcome"]) for each in audits]
        assert "payments" not in logs
        assert OPERATOR not in logs
        exit_code, said = await command(environ | {"HOLDFAST_BEARER_FILE": ""}, "ls")
        assert (exit_code, "unauthenticated" in said) == (1, True), said
        for node in cluster.running:
            issue(newer, tmp_path / "tls" / node, "127.0.0.1")
        newer.cert_pem.write_to_path(tmp_path / "newer.pem")
        await answer(environ | {"HOLDFAST_CA_FILE": str(tmp_path / "newer.pem")}, "ls")
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientError):
                await http.get(cluster.url(cluster.running[0]).replace("https", "http"))
