"""The rest of the command: help, looking at the cluster, starting nodes, and what is said when something is missing or wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import holdfast
from holdfast.cli import nodes, reading, server_extra
from holdfast.cli.app import command
from holdfast.cli.supervisor import Event

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = """\
cluster: test
data_dir: ./data
nodes:
  - {name: n1, http: "127.0.0.1:%d", raft: "127.0.0.1:%d"}
"""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(command, list(arguments))


def in_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 -- our own interpreter and code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


# -- what is installed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_cli_extra_a_sentence_says_what_to_install(missing: str) -> None:
    """No traceback for somebody who has installed the client only."""
    hide = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == {missing!r} else f(n); "
    result = in_new_process(hide + "from holdfast.__main__ import main; main()")
    assert result.returncode == 2
    assert missing in result.stderr
    assert "pip install 'holdfast[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_server_extra_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    """`up` in a base install names the extra."""
    file = tmp_path / "cluster.yml"
    file.write_text(CLUSTER % (7601, 7701))
    hide = "import sys; sys.modules['holdfast_coordinator'] = None; "
    run = f"sys.argv = ['holdfast', 'up', '--config', {str(file)!r}]; from holdfast.__main__ import main; main()"
    result = in_new_process(hide + run)
    assert result.returncode == 2
    assert "pip install 'holdfast[server]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_library_loads_neither_server_nor_command_line() -> None:
    """`import holdfast` in a base install needs nothing of the extras."""
    code = (
        "import sys; import holdfast; "
        "print([n for n in ('holdfast_coordinator', 'pysyncobj', 'click', 'rich', 'sqlalchemy') if n in sys.modules])"
    )
    assert in_new_process(code).stdout.strip() == "[]"


# -- help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(
            [],
            ["up"],
            ["serve"],
            ["demo"],
            ["config", "check"],
            ["status"],
            ["ls"],
            ["show"],
            ["lock"],
        ),
        *(["doctor"], ["step-down"], ["replace-node"], ["journal", "verify"], ["journal", "dump"]),
    ],
)
def test_every_command_has_help(words: list[str]) -> None:
    """And what runs things tells its exit codes."""
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    if words not in (["ls"], ["show"], ["config", "check"]):
        assert "Exit codes:" in result.output


def test_the_version_is_told() -> None:
    """As the distribution has it."""
    assert holdfast.__version__ in invoke("--version").output


# -- looking -------------------------------------------------------------------------------------------------------------

NODE_1, NODE_2 = "http://127.0.0.1:1", "http://127.0.0.1:2"


def cluster_info(*, leader: str | None, term: int = 3) -> holdfast.ClusterInfo:
    node = holdfast.NodeInfo(
        name="n1", http="127.0.0.1:1", raft="127.0.0.1:3", state="leader", match_index=9
    )
    return holdfast.ClusterInfo(
        node="n1",
        leader=leader,
        term=term,
        nodes=(node,),
        commit_index=9,
        applied_index=8,
        cluster_time=1.0,
        raw={"node": "n1", "leader": leader, "term": term},
    )


def lock_info(key: str, *, held: bool = True) -> holdfast.LockInfo:
    holder = holdfast.Holder(
        token=17, session_ref="ab12", owner="web-3", mode="exclusive", remaining=4.2
    )
    waiter = holdfast.Waiter(
        session_ref="cd34", owner=None, keys=(key, "other"), mode="exclusive", remaining_wait=2.0
    )
    return holdfast.LockInfo(
        key=key,
        holders=(holder,) if held else (),
        waiters=(waiter,) if held else (),
        queue_length=5 if held else 0,
        raw={"key": key},
    )


class FakeClient:
    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def statuses(self) -> Any:
        return self.answers["statuses"]

    async def read_lock(self, key: str) -> Any:
        return self._answer("read_lock", key)

    async def list_locks(self, prefix: str, *, limit: int, after: str | None) -> Any:
        return self._answer("list_locks", (prefix, limit, after))

    def _answer(self, name: str, asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]


def with_client(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> FakeClient:
    client = FakeClient(**answers)
    monkeypatch.setattr(reading, "connect", lambda endpoints: client)
    return client


def test_status_shows_every_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leads, who answers, who does not."""
    views = {NODE_1: cluster_info(leader="n1"), NODE_2: holdfast.Unreachable("connection refused")}
    with_client(monkeypatch, statuses=views)
    result = invoke("status")
    assert result.exit_code == 0
    assert "leader n1, term 3" in result.output
    assert f"{NODE_2} - unreachable" in " ".join(result.stdout.split())
    assert "connection refused" in result.stderr
    answer = json.loads(invoke("status", "--json").stdout)
    assert answer["leader"] == "n1"
    assert answer["endpoints"][NODE_2] == {"error": "connection refused"}


@pytest.mark.parametrize("view", [cluster_info(leader=None), holdfast.Unreachable("refused")])
def test_status_of_a_cluster_that_cannot_grant_is_69(
    monkeypatch: pytest.MonkeyPatch, view: Any
) -> None:
    """A script that waits for the cluster can wait for exit code 0."""
    with_client(monkeypatch, statuses={NODE_1: view})
    assert invoke("status").exit_code == 69
    assert invoke("status", "--json").exit_code == 69


def test_ls_lists_what_begins_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says where to go on if there is more."""
    page = holdfast.LockPage(locks=(lock_info("pay/1"),), next="pay/1", raw={"locks": []})
    client = with_client(monkeypatch, list_locks=page)
    result = invoke("ls", "pay/", "--limit", "1", "--after", "pay/0")
    assert client.asked == [("pay/", 1, "pay/0")]
    assert "pay/1" in result.stdout
    assert "17" in result.stdout
    assert "--after 'pay/1'" in result.stderr
    assert json.loads(invoke("ls", "--json").stdout) == {"locks": []}


def test_show_tells_holder_and_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they will get it."""
    with_client(monkeypatch, read_lock=lock_info("pay/1"))
    output = " ".join(invoke("show", "pay/1").output.split())
    assert "held with token 17 by web-3 (session ab12), for another 4.2 s" in output
    assert "1. waits: session cd34, for another 2.0 s, together with other" in output
    assert "and 4 more" in output
    with_client(monkeypatch, read_lock=lock_info("pay/1", held=False))
    assert "nobody holds it" in invoke("show", "pay/1").output


def test_a_key_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like markup in a key is no markup."""
    with_client(monkeypatch, read_lock=lock_info("[red]x[/red]", held=False))
    assert "[red]x[/red]: nobody" in invoke("show", "[red]x[/red]").output


def test_looking_at_a_cluster_that_is_away_is_69(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason on standard error and nothing on standard output."""
    with_client(monkeypatch, read_lock=holdfast.Unreachable("no node answered"))
    result = invoke("show", "k")
    assert result.exit_code == 69
    assert result.stdout == ""
    assert "no node answered" in result.stderr


def test_endpoints_that_are_no_urls_are_exit_code_2() -> None:
    """A typing mistake is told before anything is asked."""
    assert invoke("status", "--endpoints", "ftp://127.0.0.1").exit_code == 2


# -- nodes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = (one.getsockname()[1], two.getsockname()[1])
    file = tmp_path / "cluster.yml"
    file.write_text(CLUSTER % ports)
    return file


def test_up_and_config_check_refuse_a_wrong_configuration(tmp_path: Path) -> None:
    """Exit code 2, with the place in the file and the value."""
    file = tmp_path / "cluster.yml"
    file.write_text(CLUSTER.replace("%d", "no-port"))
    for words in (["up"], ["config", "check"], ["serve", "--node", "n1"]):
        result = invoke(*words, "--config", str(file))
        assert result.exit_code == 2
        assert "$.nodes[0]" in result.stderr
        assert "no-port" in result.stderr


def test_up_without_a_file_says_so(tmp_path: Path) -> None:
    """Exit code 2."""
    result = invoke("up", "--config", str(tmp_path / "cluster.yml"))
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_config_check_of_a_good_file(cluster_file: Path) -> None:
    """Says what would be started."""
    result = invoke("config", "check", "--config", str(cluster_file))
    assert result.exit_code == 0
    assert "n1: http 127.0.0.1:" in result.output
    answer = json.loads(invoke("config", "check", "--json", "--config", str(cluster_file)).stdout)
    (warning,) = answer.pop("warnings")
    assert "NOT available" in warning
    assert answer == {"cluster": "test", "nodes": ["n1"], "survives": 0, "ok": True}


def test_config_check_takes_a_file_and_says_what_it_survives(tmp_path: Path) -> None:
    """In plain words: one node is not available, an even number is of no use, and an odd one above it survives that many."""
    said = {}
    for count in (1, 2, 3, 4, 5, 7):
        nodes = [
            f"  - {{name: n{n}, http: '127.0.0.1:{7600 + n}', raft: '127.0.0.1:{7700 + n}'}}"
            for n in range(count)
        ]
        file = tmp_path / "other.yml"
        file.write_text("\n".join(["cluster: c", "data_dir: d", "nodes:", *nodes, ""]))
        result = invoke("config", "check", str(file))
        assert result.exit_code == 0
        said[count] = (result.stdout.splitlines()[0].rpartition(", ")[2], result.stderr)
    assert said[1][0] == "not available when a node is lost"
    assert "NOT available while that node or its machine is down" in said[1][1]
    assert "survives the loss of 0, just as 1 would" in said[2][1]
    assert "survives the loss of 1, just as 3 would" in said[4][1]
    assert [said[n] for n in (3, 5, 7)] == [
        (f"survives the loss of {n // 2}", "") for n in (3, 5, 7)
    ]


def test_config_check_says_in_which_line_the_mistake_is(tmp_path: Path) -> None:
    """With the path, the nearest name, and exit code 2."""
    file = tmp_path / "cluster.yml"
    file.write_text(
        "cluster: c\ndata_dir: d\nnodes:\n  - {name: n1, http: '127.0.0.1:1', raft: '127.0.0.1:2'}\n"
        "timing:\n  heartbeet_ms: 100\n"
    )
    result = invoke("config", "check", str(file))
    assert result.exit_code == 2
    expected = "cluster.yml:6: $.timing.heartbeet_ms: there is no such setting; did you mean 'heartbeat_ms'?"
    assert expected in result.stderr


def test_serve_refuses_a_node_that_is_not_in_the_file(cluster_file: Path) -> None:
    """And says which there are."""
    result = invoke("serve", "--node", "n9", "--config", str(cluster_file))
    assert result.exit_code == 2
    assert "n1" in result.stderr


def test_up_with_a_port_in_use_starts_nothing(tmp_path: Path) -> None:
    """A clear sentence and a non-zero exit, before any process is there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = tmp_path / "cluster.yml"
        file.write_text(CLUSTER % (port, 7701))
        result = invoke("up", "--config", str(file))
    assert result.exit_code == 1
    assert f"node n1 cannot listen on 127.0.0.1:{port} (http): the port is in use" in result.stderr
    assert not (tmp_path / "data").exists()


def test_demo_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And its result is the exit code."""
    asked: dict[str, Any] = {}

    def demo(**options: Any) -> int:
        asked.update(options)
        return 1

    monkeypatch.setattr(server_extra, "demo", demo)
    messages = tmp_path / "messages.csv"
    messages.write_text("")
    words = ["--messages", str(messages), "--workers", "3", "--without-fence", "--seed", "7"]
    assert invoke("demo", *words, "--json").exit_code == 1
    assert asked == {
        "messages": messages,
        "workers": 3,
        "without_fence": True,
        "seed": 7,
        "json_output": True,
    }


def test_every_event_of_the_supervisor_has_its_sentence() -> None:
    """What `up` prints for a person."""
    node = server_extra.LocalNode("n1", "http://127.0.0.1:7601", ())
    tell = nodes._Reporter([node])._sentence
    assert "process 7" in tell(Event("started", node="n1", pid=7))
    assert "HOLDFAST_ENDPOINTS=http://127.0.0.1:7601" in tell(Event("all_ready", nodes=("n1",)))
    died = tell(Event("died", node="n1", pid=7, how="signal 9 (SIGKILL)"))
    assert died == "n1: process 7 died (signal 9 (SIGKILL))"
    assert "in 2 s" in tell(Event("restarting", node="n1", after_seconds=2.0))
    assert "refused" in tell(Event("refused", node="n1", how="exit code 2"))
    assert "n1" in tell(Event("waiting", nodes=("n1",)))
    assert tell(Event("ready", node="n1")) == "n1: ready"
    assert (tell(Event("stopping")), tell(Event("stopped"))) == ("stopping", "stopped")
