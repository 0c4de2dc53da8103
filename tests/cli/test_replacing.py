"""`replace-node --config`: each step is done when it is safe, refused with a sentence when it is not, and never done twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from holdfast.cli import replacing
from holdfast.cli.replacing import Place, Plan, Told, Unsafe

OLD, NEW = Place("http://old:7601", "old:7701"), Place("http://new:7601", "new:7701")


def place(name: str) -> Place:
    return Place(f"http://{name}:7601", f"{name}:7701")


@dataclass
class Cluster:
    """Fulfils `World`: nodes of a cluster of which n3 has died. Whatever is asked of it is noted in `done`."""

    names: tuple[str, ...] = ("n1", "n2", "n3")
    epochs: dict[str, int] = field(default_factory=dict)
    down: set[str] = field(default_factory=lambda: {"n3"})
    listening: set[str] = field(default_factory=set)
    leader: str | None = "n1"
    cluster: str = "c"
    admitted: bool = False
    has_come: bool = True
    own_epoch: int = 8
    patience: int = 5
    on_wait: object = None
    reload_refusals: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    changed: dict[str, Told] = field(default_factory=dict)

    def epoch(self, name: str) -> int:
        return self.own_epoch if name == "n3" else self.epochs.get(name, 7)

    async def ask(self, node: str) -> Told | None:
        if node in self.down:
            return None
        if node in self.changed:
            return self.changed[node]
        epoch = self.epoch(node)
        n3 = NEW if epoch >= 8 else OLD
        is_there = self.admitted and "n3" not in self.down
        states = dict.fromkeys(self.names, "follower") | {
            name: "unreachable" for name in self.names if name in self.down
        }
        states["n3"] = "follower" if is_there or node == "n3" else "unreachable"
        is_ready = node != "n3" or self.admitted
        places = {name: place(name) for name in self.names} | {"n3": n3}
        return Told(self.cluster, epoch, self.leader, states, places, is_ready)

    async def reload(self, node: str) -> str | None:
        if node in self.reload_refusals:
            return self.reload_refusals[node]
        self.done.append(f"reload {node}")
        self.epochs[node] = 8
        return None

    async def admit(self, by: str, node: str) -> str | None:
        if not self.has_come:
            return f"{node} has not come with another data directory"
        self.done.append(f"admit by {by}")
        self.admitted = True
        return None

    async def answers(self, address: str) -> bool:
        return address in self.listening

    async def wait(self) -> bool:
        self.patience -= 1
        if callable(self.on_wait):
            self.on_wait()
        return self.patience > 0

    async def replace(self, **changes: object) -> list[str]:
        """What it said."""
        places = {name: place(name) for name in self.names} | {"n3": NEW}
        plan = replace(Plan("c", 8, "n3", places), **changes)  # type: ignore[arg-type]
        said: list[str] = []
        await replacing.replace(plan, self, said.append)
        return said

    async def refuses(self, words: str, **changes: object) -> None:
        before = list(self.done)
        with pytest.raises(Unsafe, match=words):
            await self.replace(**changes)
        assert self.done == before, "nothing was done"


def started(cluster: Cluster) -> Cluster:
    """n3 runs on its new machine, with an empty directory."""
    cluster.down.discard("n3")
    return cluster


STEPS = ["reload n1", "reload n2", "admit by n1"]


async def test_one_node_after_another_then_the_admission() -> None:
    cluster = started(Cluster())
    said = await cluster.replace()
    assert cluster.done == STEPS
    assert said[-1] == "n3 has caught up, and counts again"


async def test_asking_again_does_nothing_again() -> None:
    cluster = started(Cluster())
    await cluster.replace()
    assert await cluster.replace() == ["n3 is back already; there is nothing to do"]
    assert cluster.done == STEPS


@pytest.mark.parametrize("done", [1, 2])
async def test_it_goes_on_where_it_was_interrupted(done: int) -> None:
    """After the first, or the second node has read the new address."""
    cluster = started(Cluster(epochs=dict.fromkeys(("n1", "n2")[:done], 8)))
    await cluster.replace()
    assert cluster.done == STEPS[done:]


async def test_it_waits_for_the_new_machine_and_says_so() -> None:
    cluster = Cluster()
    cluster.on_wait = lambda: cluster.down.discard("n3")
    said = await cluster.replace()
    assert any("waiting for n3 at http://new:7601" in each for each in said)
    assert cluster.done == STEPS


async def test_a_machine_that_does_not_come_ends_it_before_the_admission() -> None:
    cluster = Cluster()
    with pytest.raises(Unsafe, match="start it there with an empty data directory"):
        await cluster.replace()
    assert cluster.done == STEPS[:2]


async def test_it_waits_until_the_others_have_met_the_newcomer() -> None:
    """They dial it; until then there is no directory to admit."""
    cluster = started(Cluster(has_come=False))

    def come() -> None:
        cluster.has_come = True

    cluster.on_wait = come
    await cluster.replace()
    assert cluster.done == STEPS


async def test_a_node_that_was_moved_with_its_directory_is_not_admitted_anew() -> None:
    """The others know the directory, and let it in as soon as they look in the right place."""
    cluster = started(Cluster(has_come=False))

    def connect() -> None:
        cluster.admitted = True

    cluster.on_wait = connect
    said = await cluster.replace()
    assert cluster.done == STEPS[:2]
    assert said[-1] == "n3 has caught up, and counts again"


async def test_another_node_that_is_down_is_refused() -> None:
    """With one more gone, nobody would be left if anything went wrong; and of three it is no majority."""
    cluster = started(Cluster())
    cluster.down.add("n2")
    await cluster.refuses("n2 does not answer at http://n2:7601; bring it back first")
    await cluster.refuses("1 of 3 nodes are left .* no majority", without=frozenset({"n2"}))


async def test_of_five_nodes_two_may_be_lost_if_the_operator_says_so() -> None:
    """Then three are asked, which are a majority of five."""
    cluster = started(Cluster(names=("n1", "n2", "n3", "n4", "n5")))
    cluster.down.add("n4")
    await cluster.refuses("--without n4")
    await cluster.replace(without=frozenset({"n4"}))
    assert cluster.done == ["reload n1", "reload n2", "reload n5", "admit by n1"]
    two_more = started(Cluster(names=("n1", "n2", "n3", "n4", "n5")))
    await two_more.refuses("no majority", without=frozenset({"n4", "n5"}))


async def test_a_cluster_of_one_or_two_has_no_majority_without_the_node() -> None:
    await started(Cluster(names=("n2", "n3"))).refuses("no majority")
    await started(Cluster(names=("n3",))).refuses("no majority")


@pytest.mark.parametrize("address", ["old:7601", "old:7701"])
async def test_an_old_machine_that_still_answers_is_refused(address: str) -> None:
    """By HTTP, or to other nodes: it is cut off from the cluster, not dead."""
    cluster = started(Cluster(listening={address}))
    await cluster.refuses(f"the old n3 still answers at {address}")


async def test_a_node_that_is_connected_is_not_replaced() -> None:
    cluster = started(Cluster(admitted=True))
    await cluster.refuses("n1 is connected with n3; stop it first")


@pytest.mark.parametrize("epoch", [5, 6, 9])
async def test_a_node_that_goes_by_another_epoch_is_refused(epoch: int) -> None:
    """It has missed a change, or the file is an old one."""
    cluster = started(Cluster(epochs={"n2": epoch}))
    await cluster.refuses(f"n2 goes by epoch {epoch}, and the file has 8")


async def test_a_newcomer_with_an_old_file_is_not_admitted() -> None:
    cluster = started(Cluster(own_epoch=7))
    with pytest.raises(Unsafe, match=r"n3 was started with another cluster\.yml"):
        await cluster.replace()
    assert "admit by n1" not in cluster.done


async def test_without_a_leader_nothing_is_done() -> None:
    await started(Cluster(leader=None)).refuses("n1 is not ready")


async def test_nodes_that_name_different_leaders_are_refused() -> None:
    cluster = started(Cluster())
    told = await cluster.ask("n2")
    assert told is not None
    cluster.changed["n2"] = replace(told, leader="n2")
    await cluster.refuses("different leaders")


async def test_another_cluster_at_these_addresses_is_refused() -> None:
    """Such as the one before a restore."""
    await started(Cluster(cluster="c#1")).refuses("is of cluster c#1, and the file of c")


async def test_two_changes_at_once_are_refused() -> None:
    """Of an address, or of who there is."""
    cluster = started(Cluster())
    places = {name: place(name) for name in cluster.names} | {"n3": NEW}
    await cluster.refuses("another address for n2", places=places | {"n2": place("elsewhere")})
    five = started(Cluster(names=("n1", "n2", "n3", "n4", "n5")))
    await five.refuses("knows other nodes", places=places | {"n4": place("n4")})


async def test_a_file_with_the_old_address_is_refused() -> None:
    cluster = started(Cluster())
    places = {name: place(name) for name in cluster.names} | {"n3": OLD}
    await cluster.refuses("no new address for n3", places=places)


async def test_a_node_that_does_not_take_over_the_address_ends_it() -> None:
    """Its own machine may have been given another file; and the nodes after it are not asked."""
    cluster = started(Cluster(reload_refusals={"n1": "epoch is 7 there"}))
    await cluster.refuses("n1 does not take over the new address: epoch is 7 there")


async def test_a_node_that_goes_down_between_two_steps_ends_it() -> None:
    cluster = started(Cluster())
    reload = cluster.reload

    async def reload_and_die(node: str) -> str | None:
        cluster.down.add("n2")
        return await reload(node)

    cluster.reload = reload_and_die  # type: ignore[method-assign]
    with pytest.raises(Unsafe, match="n2 does not answer"):
        await cluster.replace()
    assert cluster.done == STEPS[:1]
