"""TLS between nodes, on loopback: who gets in with which certificate, and that nothing else gets in at all."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from test_transport import Ears, Stranger, free_ports
from tls_files import FAR_AHEAD, LONG_AGO, Authority

from holdfast_coordinator import certificates
from holdfast_coordinator.certificates import CertificateFiles, Certificates, Contexts
from holdfast_coordinator.raft import frames, rejections, tls
from holdfast_coordinator.raft import transport as wire
from holdfast_coordinator.raft.messages import TermNotice
from holdfast_coordinator.raft.transport import Network, TransportConfig


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The cluster's own."""
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Somebody else's."""
    return Authority(tmp_path / "theirs")


class Shown(Certificates):
    """Shows a certificate that a node would not start with."""

    def __init__(self, files: CertificateFiles) -> None:
        texts = {name: getattr(files, name).read_text() for name in ("ca", "certificate", "key")}
        self._made = Contexts(
            certificates._context(ssl.PROTOCOL_TLS_SERVER, files, texts),
            certificates._context(ssl.PROTOCOL_TLS_CLIENT, files, texts),
        )

    def contexts(self) -> Contexts:
        return self._made


Made = tuple[Network, Ears]
Make = Callable[[str, Certificates | None], Made]


def cluster_of(size: int) -> Make:
    """Makes its nodes, which are not started."""
    members = {f"n{n}": ("127.0.0.1", port) for n, port in enumerate(free_ports(size), 1)}

    def make(node: str, shows: Certificates | None) -> Made:
        ears = Ears()
        network = Network(
            TransportConfig("c", node, b"secret", members, entry_bytes_max=1000),
            ears,
            rng=random.Random(0),  # noqa: S311 - a seeded run
            new_nonce=os.urandom,
            certificates=shows,
        )
        return network, ears

    return make


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Nodes of a cluster of three, not started; all are stopped in the end."""
    nodes = cluster_of(3)
    made: list[Network] = []

    def make(node: str, shows: Certificates | None) -> Made:
        network, ears = nodes(node, shows)
        made.append(network)
        return network, ears

    yield make
    for network in made:
        await network.stop()


async def until_rejected(network: Network, reason: str) -> None:
    """Its counter says so. Nothing tells when it changes, so each round of the loop looks."""
    async with asyncio.timeout(10):
        while not network.stats.rejected[reason]:  # noqa: ASYNC110 - one round of the loop at a time
            await asyncio.sleep(0)


async def test_three_nodes_speak_over_tls(make: Make, authority: Authority) -> None:
    """Each with each, in both directions, more than fits into one record; and it is TLS 1.3."""
    nodes = {
        name: make(name, Certificates(authority.issue(name), name)) for name in ("n1", "n2", "n3")
    }
    for network, _ in nodes.values():
        await network.start()
    for name, (_, ears) in nodes.items():
        others = {("connected", other) for other in nodes if other != name}
        await ears.until(lambda ears=ears, others=others: others <= set(ears.events))  # type: ignore[misc]
    large = os.urandom(300_000)
    for name, (network, _) in nodes.items():
        for other in nodes.keys() - {name}:
            network.send_messages(other, [TermNotice(number) for number in range(50)])
            network.send_payloads(other, [large, name.encode()])
    for name, (network, ears) in nodes.items():
        await ears.until(lambda ears=ears: sum(e[0] == "payload" for e in ears.events) == 4)  # type: ignore[misc]
        for other in nodes.keys() - {name}:
            said = [what for kind, (peer, what) in without_connections(ears) if peer == other]
            assert said == [*(TermNotice(number) for number in range(50)), large, other.encode()]
            pipe = network._live[other]._tls
            assert pipe is not None
            assert pipe._tls.version() == "TLSv1.3"
        assert not network.stats.rejected


def without_connections(ears: Ears) -> list[tuple[str, Any]]:
    return [event for event in ears.events if event[0] in ("message", "payload")]


def test_it_is_the_same_on_the_event_loop_of_production(tmp_path: Path) -> None:
    """uvloop has transports of its own."""
    authority = Authority(tmp_path)

    async def run() -> None:
        nodes = cluster_of(2)
        one, ears_one = nodes("n1", Certificates(authority.issue("n1"), "n1"))
        two, ears_two = nodes("n2", Certificates(authority.issue("n2"), "n2"))
        await one.start()
        await two.start()
        try:
            await ears_one.until(lambda: ("connected", "n2") in ears_one.events)
            await ears_two.until(lambda: ("connected", "n1") in ears_two.events)
            large = os.urandom(one.config.frame_bytes_max - 100)
            one.send_payloads("n2", [large])
            await ears_two.until(lambda: ("payload", ("n1", large)) in ears_two.events)
            plain = await Stranger.connect(two)
            plain.write(frames.hello("c", "n1", "n2", bytes(32)))
            assert await plain.reader.read() == tls.NO_TLS_ALERT
            plain.writer.close()
            assert two.stats.rejected == {tls.NO_TLS: 1}
        finally:
            await one.stop()
            await two.stop()

    uvloop.run(run())


Shows = Callable[[Authority, Authority], CertificateFiles]
WRONG: list[tuple[str, Shows, str]] = [
    (
        "of another CA",
        lambda ours, theirs: theirs.issue("bad", "n1", "n2", trusts=ours),
        "certificate of an unknown CA",
    ),
    (
        "expired",
        lambda ours, _: ours.issue("bad", "n1", "n2", valid=LONG_AGO),
        "certificate expired",
    ),
    (
        "of the future",
        lambda ours, _: ours.issue("bad", "n1", "n2", valid=FAR_AHEAD),
        "certificate not yet valid",
    ),
    ("of another node", lambda ours, _: ours.issue("bad", "n3"), "certificate of another node"),
    (
        "with a wildcard",
        lambda ours, _: ours.issue("bad", "*.n1", "*.n2", "n1.example.org", "n2.example.org"),
        "certificate of another node",
    ),
]


@pytest.mark.parametrize(("what", "shows", "reason"), WRONG, ids=[each[0] for each in WRONG])
@pytest.mark.parametrize("wrong", ["n1", "n2"])
async def test_a_wrong_certificate_keeps_a_node_out(
    make: Make,
    authority: Authority,
    stranger: Authority,
    caplog: pytest.LogCaptureFixture,
    what: str,
    shows: Shows,
    reason: str,
    wrong: str,
) -> None:
    """Of who dials (n1) as of who listens (n2): the right node counts the reason, again and again, and tells it once; nothing of
    it reaches anybody. The secret of the wrong one is right."""
    right = "n2" if wrong == "n1" else "n1"
    judge, ears = make(right, Certificates(authority.issue(right), right))
    other, other_ears = make(wrong, Shown(shows(authority, stranger)))
    with caplog.at_level(logging.WARNING, logger=rejections.__name__):
        for network in (judge, other):
            await network.start()
        async with asyncio.timeout(10):
            while judge.stats.rejected[reason] < 2:  # noqa: ASYNC110 - one round of the loop at a time
                await asyncio.sleep(0.001)
    assert ears.events == other_ears.events == []
    assert set(judge.stats.rejected) == {reason}
    told = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith(right) and reason in line for line in told) == 1
    if reason != "certificate of another node":
        await until_rejected(other, tls.OWN_CERTIFICATE_REFUSED)
        assert (
            sum(line.startswith(wrong) and "refuses the certificate" in line for line in told) == 1
        )


async def test_whoever_shows_no_certificate_is_refused(make: Make, authority: Authority) -> None:
    """The secret alone does not open."""
    network, ears = make("n2", Certificates(authority.issue("n2"), "n2"))
    await network.start()
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.check_hostname = False
    host, port = network.config.members["n2"]
    stranger = Stranger(*await asyncio.open_connection(host, port, ssl=context))
    stranger.write(frames.hello("c", "n1", "n2", bytes(32)))
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await stranger.read()
    stranger.writer.close()
    assert network.stats.rejected == {tls.NO_CERTIFICATE: 1}
    assert ears.events == []


async def test_the_listener_holds_the_hello_against_the_certificate(
    make: Make, authority: Authority
) -> None:
    """n3 has a good certificate and the secret, says that it is n1, and is not answered."""
    network, ears = make("n2", Certificates(authority.issue("n2"), "n2"))
    await network.start()
    shows = Certificates(authority.issue("n3"), "n3").contexts().dialer
    host, port = network.config.members["n2"]
    liar = Stranger(*await asyncio.open_connection(host, port, ssl=shows))
    liar.write(frames.hello("c", "n1", "n2", bytes(32)))
    await liar.closed()
    assert network.stats.rejected == {tls.ANOTHER_NODES_CERTIFICATE: 1}
    honest = Stranger(*await asyncio.open_connection(host, port, ssl=shows))
    await honest.shake_hands(name="n3")
    await ears.until(lambda: ears.events == [("connected", "n3")])
    honest.writer.close()


async def test_the_secret_is_still_asked_for(make: Make, authority: Authority) -> None:
    """A certificate alone does not open either."""
    network, ears = make("n2", Certificates(authority.issue("n2"), "n2"))
    await network.start()
    shows = Certificates(authority.issue("n1"), "n1").contexts().dialer
    host, port = network.config.members["n2"]
    peer = Stranger(*await asyncio.open_connection(host, port, ssl=shows))
    mine = frames.hello("c", "n1", "n2", bytes(32))
    peer.write(mine)
    theirs = (await peer.read())[: -frames.PROOF_BYTES]
    peer.write(frames.proof(b"another", b"dialer", mine, theirs))
    await peer.closed()
    assert network.stats.rejected == {"wrong secret": 1}
    assert ears.events == []


@pytest.mark.parametrize("plain", ["n1", "n2"])
async def test_plain_and_tls_never_meet(
    make: Make, authority: Authority, caplog: pytest.LogCaptureFixture, plain: str
) -> None:
    """Whoever dials: both ends count it, and neither falls back."""
    secure = "n2" if plain == "n1" else "n1"
    with caplog.at_level(logging.WARNING, logger=rejections.__name__):
        one, ears_one = make(secure, Certificates(authority.issue(secure), secure))
        two, ears_two = make(plain, None)
        await one.start()
        await two.start()
        await until_rejected(one, tls.NO_TLS if plain == "n1" else rejections.BROKEN_OFF)
        await until_rejected(two, tls.UNEXPECTED_TLS)
    assert ears_one.events == ears_two.events == []
    assert len(caplog.records) == 2
    assert all("raft_tls" in record.getMessage() for record in caplog.records)


async def test_a_handshake_that_never_ends_is_ended(
    make: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence in TLS counts as silence, and its places at the door are as few."""
    monkeypatch.setattr(wire, "HANDSHAKE_SECONDS", 0.05)
    monkeypatch.setattr(wire, "STRANGERS_MAX", 2)
    network, _ = make("n2", Certificates(authority.issue("n2"), "n2"))
    await network.start()
    strangers = [await Stranger.connect(network) for _ in range(3)]
    for stranger in strangers:
        stranger.writer.write(b"\x16\x03\x01\x02\x00\x01")
        await stranger.closed()
    assert network.stats.rejected == {"too many strangers": 1, "handshake timeout": 2}


async def test_who_was_told_why_and_stays_is_closed(
    make: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection waits for the other side to read the reason, not longer than for a handshake, and counts once."""
    monkeypatch.setattr(wire, "HANDSHAKE_SECONDS", 0.05)
    network, _ = make("n2", Certificates(authority.issue("n2"), "n2"))
    await network.start()
    stays = await Stranger.connect(network)
    stays.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await stays.reader.readexactly(len(tls.NO_TLS_ALERT)) == tls.NO_TLS_ALERT
    async with asyncio.timeout(10):
        while network._strangers:  # noqa: ASYNC110 - the end of a connection that says nothing
            await asyncio.sleep(0.001)
    assert network.stats.rejected == {tls.NO_TLS: 1}
    stays.writer.close()


async def test_new_connections_show_the_renewed_certificate(
    make: Make, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The files are replaced under running nodes: who connects after that sees the new one; while the files do not fit together,
    the former one, and the log says so once."""
    files = authority.issue("n2")
    network, _ = make("n2", Certificates(files, "n2"))
    await network.start()
    dials = Certificates(authority.issue("n1"), "n1").contexts().dialer
    host, port = network.config.members["n2"]

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection(host, port, ssl=dials)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return certificate

    first = await shown()
    assert await shown() == first
    former_key = files.key.read_bytes()
    authority.issue("n2")
    new_key = files.key.read_bytes()
    files.key.write_bytes(former_key)  # half of the renewal is there
    with caplog.at_level(logging.WARNING):
        assert await shown() == await shown() == first
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert str(files.key) in caplog.records[0].getMessage()
        files.key.write_bytes(new_key)
        second = await shown()
    assert second != first
    assert ssl.DER_cert_to_PEM_cert(second) in files.certificate.read_text()


async def test_a_peer_that_comes_again_is_news(make: Make) -> None:
    """A reason is told once an hour for each peer, and anew after it was connected."""
    told = rejections.Rejections("n2")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    rejections.log.addHandler(handler)
    try:
        add = [
            (0.0, "n1"), (1.0, "n1"), (1.0, None), (2.0, None), (rejections.TOLD_AGAIN_SECONDS, "n1"),
        ]  # fmt: skip
        for now, peer in add:
            told.add(tls.NO_TLS, peer=peer, at="192.0.2.1", detail="", now=now)
        assert len(records) == 3
        told.forget("n1")
        told.add(
            tls.NO_TLS, peer="n1", at="192.0.2.1", detail="", now=rejections.TOLD_AGAIN_SECONDS
        )
        told.add("frame code", peer="n1", at="192.0.2.1", detail="", now=0.0)
    finally:
        rejections.log.removeHandler(handler)
    assert len(records) == 4
    assert told.counts == {tls.NO_TLS: 6, "frame code": 1}
