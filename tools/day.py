"""A day in the life of a cluster, with everything that happens to one in years: `make day`, as root.

    python tools/day.py                 # three nodes in three network namespaces, the workers in a fourth
    python tools/day.py --keep DIR      # leaves what was written there: configurations, logs, data, backup

HTTPS, mutual TLS between the nodes, identities and rights are on. Workers collect payments through the ledger all day long, each
message twice, and a night watch holds one lock from the morning to the restore. In the order of the day: a rolling restart,
the leader is killed, a node comes back on another machine, certificates are rotated, a backup is made, the cluster is upgraded
node by node to the next format level, and the backup is restored into a second cluster. After each step its longest time
without a grant is printed. Exit code 0: no lock was lost, no payment was collected twice or not at all, the books balance; else 1.

Nothing outside of the namespaces is touched, and they end with the run. Each node runs under a user of its own where others
can read the interpreter, else as root, which is said.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import itertools
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import trustme

import holdfast
from holdfast.errors import HoldfastError
from holdfast.fencing import Stale
from holdfast_jepsen.live.namespaces import Namespaces, why_not
from holdfast_ledger import Duplicate, Ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NODES: Final = ("n1", "n2", "n3")
MACHINES: Final = (*NODES, "spare", "m1", "m2", "m3")
"""The spare is where n3 comes back. The second cluster is on m1 to m3."""
FIRST_USER: Final = 61_001
WORKERS: Final = 6
CUSTOMERS: Final = 12
NIGHT_WATCH: Final = "night/watch"
WITHIN_SECONDS: Final = 60.0
"""Any wait; a machine may be busy."""
EPOCH = "epoch: {epoch}\n"
LEVEL = "format_level_max: 1\n"


class Failed(Exception):
    """Something was not as it must be."""


def say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(what: str, true: Callable[[], Awaitable[bool]]) -> None:
    end = now() + WITHIN_SECONDS
    while not await true():
        if now() > end:
            raise Failed(f"{what}: not within {WITHIN_SECONDS:.0f} s")
        await asyncio.sleep(0.05)


class Day:
    """Two clusters, their papers, and what happens to them."""

    def __init__(self, directory: Path, network: Namespaces) -> None:
        self.directory = directory
        self.network = network
        self.places = {name: name for name in NODES}
        """Node to machine."""
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.nodes_ca, self.http_ca = trustme.CA(), trustme.CA()
        self.worker, self.operator = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.has_users = _others_can_run_python()
        self.http_ca.cert_pem.write_to_path(directory / "http-ca.pem")
        self.tls = holdfast.tls_context(ca_file=directory / "http-ca.pem")

    # -- papers ------------------------------------------------------------------------------------------------------------

    def write_config(
        self, node: str, *, epoch: int = 0, level: str = "", incarnation: int = 0
    ) -> Path:
        """The cluster.yml on the machine of `node`: a directory of its own, as on a machine of its own."""
        machine = self.places[node]
        home = self.home(machine)
        lines = [
            "cluster: payments",
            f"data_dir: {home}/data",
            f"secret_file: {home}/secret",
            f"epoch: {epoch}",
            f"incarnation: {incarnation}",
            "nodes:",
        ]
        for name, place in self.places.items():
            host = self.network.http(place).rpartition(":")[0]
            lines.append(f"  - {{name: {name}, http: '{host}:7601', raft: '{host}:7701'}}")
        lines += [
            "raft_tls: {ca: raft-ca.pem, certificate: raft.pem, key: raft.key}",
            "http_tls: {certificate: http.pem, key: http.key}",
            "access:",
            "  identities:",
            f"    - {{name: workers, bearer_sha256: [{_digest(self.worker)}],",
            "       may: [{rights: [acquire, read], prefixes: [payments/, night/]}]}",
            f"    - {{name: operator, bearer_sha256: [{_digest(self.operator)}],",
            "       may: [{rights: [read, force]}, {rights: [admin]}]}",
        ]
        path = home / "cluster.yml"
        path.write_text("\n".join(lines) + "\n" + level)
        self._give(home, machine)
        return path

    def furnish(self, node: str, secret: str) -> None:
        """A machine for `node`: the secret and its certificates."""
        home = self.home(self.places[node])
        home.mkdir()
        (home / "secret").write_text(secret)
        self.nodes_ca.cert_pem.write_to_path(home / "raft-ca.pem")
        self.certify(node)

    def certify(self, node: str) -> None:
        """New certificates for both sides of a node, in the place of the old ones."""
        home = self.home(self.places[node])
        host = self.network.http(self.places[node]).rpartition(":")[0]
        for name, leaf in (
            ("raft", self.nodes_ca.issue_cert(node)),
            ("http", self.http_ca.issue_cert(host)),
        ):
            for end, blob in (("key", leaf.private_key_pem), ("pem", leaf.cert_chain_pems[0])):
                fresh = home / f"{name}.{end}.new"
                blob.write_to_path(fresh)
                fresh.chmod(0o600)
            self._give(home, self.places[node])
            for end in ("key", "pem"):
                (home / f"{name}.{end}.new").rename(home / f"{name}.{end}")

    def home(self, machine: str) -> Path:
        return self.directory / machine

    def _give(self, home: Path, machine: str) -> None:
        """All of it to the machine's own user, and to nobody else."""
        (home / "secret").chmod(0o600)
        if self.has_users:
            user = FIRST_USER + MACHINES.index(machine)
            for path in (home, *home.rglob("*")):
                os.chown(path, user, user)

    # -- processes ---------------------------------------------------------------------------------------------------------

    async def spawn(self, node: str, *options: str) -> None:
        machine = self.places[node]
        user = FIRST_USER + MACHINES.index(machine)
        as_user = (
            ("--reuid", str(user), "--regid", str(user), "--clear-groups") if self.has_users else ()
        )
        command = (*self.network.inside(machine), "setpriv", "--pdeathsig", "KILL", *as_user,
                   sys.executable, "-m", "holdfast", "serve", "--node", node,
                   "--config", str(self.home(machine) / "cluster.yml"), *options)  # fmt: skip
        with (self.directory / f"{node}.log").open("ab") as log:
            self.running[node] = await asyncio.create_subprocess_exec(
                *command,
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                cwd=self.home(machine),
            )

    async def start(self, *nodes: str, options: tuple[str, ...] = ()) -> None:
        for node in nodes:
            await self.spawn(node, *options)
        for node in nodes:
            await until(f"{node} is ready", functools.partial(self.is_ready, node))

    async def end(self, node: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.running.pop(node)
        process.send_signal(number)
        await asyncio.wait_for(process.wait(), WITHIN_SECONDS)

    async def stop(self) -> None:
        for node in list(self.running):
            if self.running[node].returncode is None:
                await self.end(node)

    async def command(self, *arguments: str, environ: dict[str, str] | None = None) -> str:
        """What one `holdfast` of the operator prints. Raises Failed."""
        shown = {
            "HOLDFAST_BEARER": self.operator,
            "HOLDFAST_CA_FILE": str(self.directory / "http-ca.pem"),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast", *arguments),
            env=os.environ | shown | (environ or {}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise Failed(
                f"holdfast {' '.join(arguments)}: exit {process.returncode}: {output.decode()}"
            )
        return output.decode()

    # -- asking ------------------------------------------------------------------------------------------------------------

    def url(self, node: str) -> str:
        return f"https://{self.network.http(self.places[node])}"

    @property
    def endpoints(self) -> str:
        return ",".join(self.url(node) for node in self.places)

    async def get(self, node: str, path: str) -> dict[str, Any] | None:
        headers = {"Authorization": f"Bearer {self.operator}"}
        timeout = aiohttp.ClientTimeout(total=2.0)
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout, connector=aiohttp.TCPConnector(ssl=self.tls)
                ) as http,
                http.get(self.url(node) + path, headers=headers) as response,
            ):
                body: dict[str, Any] = await response.json(content_type=None)
                return body if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def is_ready(self, node: str) -> bool:
        if self.running[node].returncode is not None:
            raise Failed(f"{node} ended: {(self.directory / f'{node}.log').read_text()[-800:]}")
        return await self.get(node, "/readyz") is not None

    async def leader(self) -> str:
        found = ""

        async def known() -> bool:
            nonlocal found
            for node in self.running:
                status = await self.get(node, "/v1/cluster")
                if status is not None and status["leader"] in self.running:
                    found = status["leader"]
                    return True
            return False

        await until("somebody leads", known)
        return found

    async def serial(self, node: str) -> bytes:
        """A hash of the certificate that a new connection to this node gets."""
        host, _, port = self.network.http(self.places[node]).rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=self.tls)
        transport: Any = writer.transport
        shown: ssl.SSLObject = transport.get_extra_info("ssl_object")
        certificate = shown.getpeercert(binary_form=True) or b""
        writer.close()
        return hashlib.sha256(certificate).digest()


class Work:
    """Payments, and whoever collects them: every message twice."""

    def __init__(self, day: Day, ledger: Ledger) -> None:
        self.day, self.ledger = day, ledger
        self.granted_at: list[float] = []
        self.highest = 0
        self.captured: set[str] = set()
        self.duplicates = self.stale = 0
        self.lost: list[str] = []
        self._messages = (f"payment-{number:06d}" for number in itertools.count(1) for _ in (1, 2))
        self._stop = asyncio.Event()
        self.watch: holdfast.Grant | None = None

    def connect(self, owner: str) -> holdfast.AsyncClient:
        return holdfast.connect(
            self.day.endpoints,
            token=self.day.worker,
            tls=self.day.tls,
            ttl=20.0,
            timeout=60.0,
            owner=owner,
        )

    async def run(self) -> None:
        async with self.connect("workers") as client, asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(client))

    async def hold_the_night_watch(self, told: asyncio.Event, over: asyncio.Event) -> None:
        async with self.connect("night watch") as client, client.lock(NIGHT_WATCH) as grant:
            self.watch = grant
            told.set()
            await over.wait()

    def stop(self) -> None:
        self._stop.set()

    async def _work(self, client: holdfast.AsyncClient) -> None:
        for payment in self._messages:
            while not await self._collect(client, payment):
                if self._stop.is_set():
                    return
            if self._stop.is_set():
                return

    async def _collect(self, client: holdfast.AsyncClient, payment: str) -> bool:
        """Whether the message is done with."""
        key = f"payments/customer-{int(payment[-6:]) % CUSTOMERS}"
        try:
            async with client.lock(key, wait=30.0) as grant:
                self.granted_at.append(now())
                self.highest = max(self.highest, grant.token)
                await asyncio.to_thread(self._capture, key, payment, grant.token)
        except Duplicate:
            self.duplicates += 1
        except Stale:
            self.stale += 1
            return False
        except HoldfastError as error:
            self.lost.append(f"{payment}: {type(error).__name__}: {error}")
            return False
        self.captured.add(payment)
        return True

    def _capture(self, key: str, payment: str, fence: int) -> None:
        self.ledger.raise_floor(key, fence)
        self.ledger.capture(
            key, payment=payment, customer=key, amount=100, currency="EUR", fence=fence
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _others_can_run_python() -> bool:
    """Whether a user without any rights can run what the nodes run, and what those start to take a snapshot."""
    user = str(FIRST_USER)
    starts_another = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', '']))"
    command = ("setpriv", "--reuid", user, "--regid", user, "--clear-groups",
               sys.executable, "-c", starts_another)  # fmt: skip
    found = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own
    return found.returncode == 0


# -- the steps -----------------------------------------------------------------------------------------------------------------


async def rolling_restart(day: Day) -> None:
    for node in NODES:
        await day.end(node)
        await day.start(node)


async def kill_the_leader(day: Day) -> None:
    leader = await day.leader()
    await day.end(leader, signal.SIGKILL)
    await day.start(leader)


async def replace_a_node(day: Day) -> None:
    """n3's machine is gone; it comes back on the spare one."""
    await day.end("n3", signal.SIGKILL)
    shutil.rmtree(day.home("n3"))
    day.places["n3"] = "spare"
    day.furnish("n3", SECRET)
    paths = [day.write_config(node, epoch=1, level=LEVEL) for node in NODES]
    command = asyncio.ensure_future(day.command("replace-node", "n3", "--config", str(paths[0])))
    await day.spawn("n3")
    await command
    await until("n3 is ready", lambda: day.is_ready("n3"))


async def rotate_certificates(day: Day) -> None:
    for node in NODES:
        before = await day.serial(node)
        day.certify(node)

        async def is_shown(node: str = node, before: bytes = before) -> bool:
            return await day.serial(node) != before

        await until(f"{node} shows its new certificate", is_shown)
    # Connections between the nodes go on with what they began with; those of a node that starts again are all new.
    await day.end("n1")
    await day.start("n1")


async def back_up(day: Day) -> None:
    file = str(day.directory / "the.backup")
    await day.command("backup", "--endpoints", day.endpoints, file)
    await day.command("backup", "verify", file)


async def rolling_upgrade(day: Day) -> None:
    """The nodes were held at format level 1, as if they were of the release before."""
    for node in NODES:
        await day.end(node)
        day.write_config(node, epoch=1)
        await day.start(node)

    async def is_raised() -> bool:
        reports = [await day.get(node, "/v1/cluster/node") for node in NODES]
        return all(each is not None and each["format_levels"]["current"] == 2 for each in reports)

    await until("the format level is 2 everywhere", is_raised)


async def restore(day: Day, work: Work) -> None:
    """Into a second cluster, on other machines. The first one is stopped."""
    await day.stop()
    day.places = {"n1": "m1", "n2": "m2", "n3": "m3"}
    for node in NODES:
        day.furnish(node, SECRET)
        path = day.write_config(node, incarnation=1)
        await day.command(
            "restore",
            str(day.directory / "the.backup"),
            "--config",
            str(path),
            "--holds",
            "drop",
            "--node",
            node,
        )
        day.write_config(node, incarnation=1)
    await day.start(*NODES)
    async with (
        work.connect("after the restore") as client,
        client.lock("payments/customer-1", wait=30.0) as grant,
    ):
        if grant.token <= work.highest:
            raise Failed(f"token {grant.token} is not above {work.highest}")
        work.ledger.raise_floor("payments/customer-1", grant.token)
        try:
            work.ledger.raise_floor("payments/customer-1", work.highest)
        except Stale:
            return
        raise Failed("the ledger took a token of before the restore")


SECRET: Final = secrets.token_hex(32)
STEPS: Final = (
    ("rolling restart", rolling_restart),
    ("leader killed", kill_the_leader),
    ("node replaced by another machine", replace_a_node),
    ("certificates rotated", rotate_certificates),
    ("backup", back_up),
    ("rolling upgrade to format level 2", rolling_upgrade),
)


async def a_day(day: Day, ledger: Ledger) -> list[str]:
    """What went wrong."""
    for node in NODES:
        day.furnish(node, SECRET)
        day.write_config(node, level=LEVEL)
    await day.start(*NODES, options=("--bootstrap",))
    work = Work(day, ledger)
    watching, morning = asyncio.Event(), asyncio.Event()
    watch = asyncio.ensure_future(work.hold_the_night_watch(watching, morning))
    working = asyncio.ensure_future(work.run())
    try:
        await asyncio.wait_for(watching.wait(), WITHIN_SECONDS)
        wrong = await until_the_night(day, work)
        work.stop()
        await asyncio.wait_for(working, WITHIN_SECONDS)
        morning.set()
        await asyncio.wait_for(watch, WITHIN_SECONDS)
    finally:
        # Whoever calls a node after this process has left its namespace would call an address of the world outside.
        for task in (watch, working):
            task.cancel()
        await asyncio.gather(watch, working, return_exceptions=True)
    begun = now()
    await restore(day, work)
    say(f"{'restore into a second cluster':<36} {now() - begun:6.1f}s {1:>7}  (stopped for it)")
    books = ledger.check_balanced()
    if books.captures != len(work.captured):
        wrong.append(
            f"{len(work.captured)} payments were collected, the books have {books.captures}"
        )
    say(
        f"{books.captures} payments once each, {work.duplicates} duplicates refused, "
        f"{work.stale} stale writes refused, {len(work.lost)} locks lost"
    )
    return wrong + work.lost


async def until_the_night(day: Day, work: Work) -> list[str]:
    """The steps while the cluster serves; what went wrong in them."""
    wrong: list[str] = []
    say(f"{'step':<36} {'took':>7} {'grants':>7}  longest without a grant")
    for name, step in STEPS:
        begun, count = now(), len(work.granted_at)
        await step(day)
        at = begun, *work.granted_at[count:], now()
        gap = max(later - earlier for earlier, later in itertools.pairwise(at))
        say(f"{name:<36} {at[-1] - begun:6.1f}s {len(at) - 2:>7}  {gap * 1000:,.0f} ms")
        if work.watch is None or work.watch.is_lost:
            wrong.append(f"{name}: the night watch lost its lock")
    return wrong


async def main(keep: Path | None) -> int:
    async with AsyncExitStack() as stack:
        directory = keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-day-"))
        )
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        network = await stack.enter_async_context(Namespaces(MACHINES))
        day = Day(directory, network)
        stack.push_async_callback(day.stop)
        ledger = Ledger(directory / "ledger.db")
        stack.callback(ledger.close)
        if not day.has_users:
            say("The nodes run as root: other users cannot read this interpreter.")
        try:
            wrong = await a_day(day, ledger)
        except Failed as failed:
            wrong = [str(failed)]
        for sentence in wrong:
            say(f"WRONG: {sentence}")
        return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave everything that was written there"
    )
    given = parser.parse_args()
    if (reason := why_not()) is not None:
        sys.stderr.write(f"day: this machine has no network namespaces for it: {reason}\n")
        sys.exit(2)
    sys.exit(asyncio.run(main(given.keep)))
