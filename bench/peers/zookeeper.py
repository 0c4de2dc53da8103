"""Three nodes of ZooKeeper: Debian's package, whose Java classes are started by ourselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peers.processes import Processes, free_ports
from peers.zookeeper_wire import four_letters

JAR = Path("/usr/share/java/zookeeper.jar")
HEAP = "-Xmx1000m"
CONFIGURATION = """tickTime=2000
initLimit=10
syncLimit=5
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr
"""
LOGGING = """log4j.rootLogger=WARN, CONSOLE
log4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender
log4j.appender.CONSOLE.layout=org.apache.log4j.PatternLayout
"""


class Server:
    """See `peers.Server`. The address is the list of client ports."""

    title = "ZooKeeper, three nodes"

    def __init__(self) -> None:
        self._processes = Processes()
        self._ports: list[int] = []
        self._version = ""

    def missing(self) -> str | None:
        if not JAR.exists() or shutil.which("java") is None:
            return "ZooKeeper: apt-get install zookeeper (Debian; it brings Java)"
        return None

    async def start(self, directory: Path) -> None:
        ports = free_ports(9)
        self._ports, quorum, election = ports[:3], ports[3:6], ports[6:]
        members = "".join(
            f"server.{number}=127.0.0.1:{a}:{b}\n"
            for number, (a, b) in enumerate(zip(quorum, election, strict=True), 1)
        )
        for number, port in enumerate(self._ports, 1):
            home = directory / f"n{number}"
            home.mkdir()
            (home / "myid").write_text(f"{number}\n")
            (home / "log4j.properties").write_text(LOGGING)
            configuration = home / "zoo.cfg"
            configuration.write_text(CONFIGURATION.format(data=home, port=port) + members)
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            command = ["java", HEAP, "-cp", f"{home}:{JAR}", main, configuration]
            await self._processes.spawn(f"zk{number}", command, directory)
        await self._processes.listening(self._ports)
        await self._processes.until(self._has_leader, "ZooKeeper elects no leader")

    async def _has_leader(self) -> bool:
        told = [await four_letters(port, b"srvr") for port in self._ports]
        self._version = told[0].partition("version: ")[2].partition("-")[0]
        return sum("Mode: " in each for each in told) == len(told)

    @property
    def address(self) -> Any:
        return self._ports

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def version(self) -> str:
        return self._version

    async def stop(self) -> None:
        await self._processes.stop()
