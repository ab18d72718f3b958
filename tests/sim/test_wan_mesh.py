"""Members across a simulated internet: whole nodes behind routers, in virtual time."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshd.drivers.quic import open_endpoint
from meshd.protocol.topics import Pair, choose_servers
from meshd.wire.rendezvous import Wait
from rendezvous.app import ALPNS, Server, limits
from rendezvous.board import Board
from tests.drivers.pairs import IDENTITY, engine
from tests.sim.nat import Filtering, Mapping, Router
from tests.sim.network import Host
from tests.sim.nodes import Lab, Machine, lab, until, until_async
from tests.sim.test_mesh import have

PORT = 4440
DAY = 86_400


@attrs.define
class Internet:
    """A lab with rendezvous servers, and machines behind routers."""

    lab: Lab
    servers: list[Host] = attrs.field(factory=list)
    routers: dict[str, Router] = attrs.field(factory=dict)
    _next: int = 1

    async def serve(self, host: Host) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with host, scope:
                opened = open_endpoint(
                    engine=engine("qh3"), identity=IDENTITY, port=PORT, alpns=ALPNS, accept=True, limits=limits()
                )
                async with opened as endpoint:
                    task_status.started()
                    await Server(endpoint).run()

        await self.lab.nursery.start(run)
        return scope

    async def behind(self, name: str, router: Router | None = None, **kind: Any) -> Machine:
        """A machine behind a router of its own, or behind one that is there."""
        if router is None:
            router = Router(self.lab.network, f"5.0.{self._next}.1", **kind)
            self._next += 1
        self.routers[name] = router
        names = tuple(f"{host.address}:{PORT}" for host in self.servers)
        return await self.lab.machine(name, router.host(name), rendezvous=names)

    async def founded(self, *names: str, **kind: Any) -> list[Machine]:
        made = [await self.behind(name, **kind) for name in names]
        await made[0].call("init", mesh="lab", name=names[0], recovery=False)
        for each in made[1:]:
            await self.lab.join(made[0], each, wan=True)
        await self.lab.all_linked(*made)
        return made

    async def paths(self, machine: Machine) -> dict[str, Any]:
        found = await machine.call("doctor_paths", mesh=None)
        return {each.machine.name: each for each in found.members}


@contextlib.asynccontextmanager
async def internet(directory: Path, servers: int = 2, **link: float) -> AsyncIterator[Internet]:
    async with lab(directory, **{"delay": 0.02, **link}) as here:
        made = Internet(here)
        for number in range(servers):
            made.servers.append(here.network.host(f"server{number}", f"7.0.0.{number + 1}"))
            await made.serve(made.servers[-1])
        yield made


async def test_members_behind_routers_join_link_and_find_each_other_after_a_restart(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with internet(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        for machine in (ann, ben, cleo):
            await have(await machine.value(machine.name), ann, ben, cleo)
        await ben.stop()
        await until(lambda: "ben" not in ann.linked, "it is gone")
        await ben.start()
        await here.lab.all_linked(ann, ben, cleo)
        assert {each.path for each in (await here.paths(ann)).values()} <= {"wan", "remembered", "accepted"}


async def test_both_routers_get_new_addresses_and_they_are_linked_again(autojump_clock: object, tmp_path: Path) -> None:
    for settle in (3.0, 40.0):
        async with internet(tmp_path / str(settle)) as here:
            ann, ben = await here.founded("ann", "ben")
            await trio.sleep(settle)
            for number, name in enumerate(("ann", "ben")):
                here.routers[name].renumber(f"5.9.{number}.{int(settle)}")
            began = trio.current_time()
            handle = await ann.value("after the move")
            await have(handle, ben, within=30)
            assert trio.current_time() - began < 30
            assert "ben" in ann.linked and "ann" in ben.linked


async def test_nobody_writes_and_both_routers_get_new_addresses(autojump_clock: object, tmp_path: Path) -> None:
    """What is linked is what carries a record: the first is written only after thirty seconds."""
    async with internet(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        await trio.sleep(50)
        here.routers["ann"].renumber("5.9.1.1")
        here.routers["ben"].renumber("5.9.2.2")
        await trio.sleep(30)
        began = trio.current_time()
        await have(await ann.value("after the move"), ben, within=2)
        assert trio.current_time() - began < 2


async def test_what_is_linked_needs_no_server(autojump_clock: object, tmp_path: Path) -> None:
    async with internet(tmp_path, servers=0) as here:
        host = here.lab.network.host("server", "7.0.0.1")
        here.servers.append(host)
        scope = await here.serve(host)
        ann, ben = await here.founded("ann", "ben")
        scope.cancel()
        await trio.sleep(600)
        await have(await ann.value("without a server"), ben, within=2)
        # And one that comes back serves again who is not.
        await ben.stop()
        await until(lambda: not ann.linked, "it is gone")
        here.routers["ben"].renumber("5.9.0.9")
        await here.serve(host)
        await ben.start()
        await until(lambda: ann.linked == {"ben"}, "they meet anew", within=120)


async def test_when_the_servers_of_a_topic_are_down_the_next_are_taken(autojump_clock: object, tmp_path: Path) -> None:
    async with internet(tmp_path, servers=0) as here:
        scopes = {}
        for number in range(5):
            host = here.lab.network.host(f"server{number}", f"7.0.0.{number + 1}")
            here.servers.append(host)
            scopes[f"{host.address}:{PORT}"] = await here.serve(host)
        ann, ben = await here.founded("ann", "ben")
        assert ann.node is not None and ann.node.seeking is not None
        pair = Pair.of(ann.mesh.id, ann.node.machine.keys.noise_private, *keys_of(ann, ben))
        topic = pair.topic(ann.time.clocks.wall_ms() // (DAY * 1000))
        await ben.stop()
        await until(lambda: not ann.linked, "it is gone")
        for name in choose_servers(topic, scopes)[:2]:
            scopes[name].cancel()
        here.routers["ben"].renumber("5.9.0.9")
        await ben.start()
        await until(lambda: ann.linked == {"ben"}, "they meet at another", within=60)


def keys_of(one: Machine, other: Machine) -> list[bytes]:
    found = []
    for each in (one, other):
        assert each.node is not None
        found.append(each.node.machine.keys.identity.noise_key)
    return found


async def test_routers_that_cannot_be_joined_are_told_with_the_reason(autojump_clock: object, tmp_path: Path) -> None:
    async with internet(tmp_path) as here:
        ann = await here.behind("ann", mapping=Mapping.ONE_FOR_EACH)
        public = await here.lab.machine("open", rendezvous=tuple(f"{each.address}:{PORT}" for each in here.servers))
        ben = await here.behind("ben", filtering=Filtering.ADDRESS_AND_PORT)
        await public.call("init", mesh="lab", name="open", recovery=False)
        for each in (ann, ben):
            await here.lab.join(public, each, wan=True)
        await here.lab.all_linked(public, ann)
        await here.lab.all_linked(public, ben)

        async def told(machine: Machine, other: str) -> bool:
            return bool((await here.paths(machine))[other].why)

        for machine, other in ((ann, "ben"), (ben, "ann")):
            await until_async(
                lambda machine=machine, other=other: told(machine, other), "both sides say why", within=40
            )
        seen = (await here.paths(ann))["ben"]
        assert "This side's router maps each destination anew" in seen.why and "--peer" in seen.advice
        assert seen.mapping == "one for all" and not seen.linked and seen.candidates
        assert "other side's router" in (await here.paths(ben))["ann"].why
        # What the one writes comes to the other all the same, by the member in between.
        await have(await ann.value("around"), ben, within=30)


async def test_two_behind_one_router_link_directly(autojump_clock: object, tmp_path: Path) -> None:
    """No multicast, and a router that does not turn its own address back."""
    async with internet(tmp_path) as here:
        public = await here.lab.machine("open", rendezvous=tuple(f"{each.address}:{PORT}" for each in here.servers))
        await public.call("init", mesh="lab", name="open", recovery=False)
        router = Router(here.lab.network, "5.0.0.77")
        ann, ben = await here.behind("ann", router), await here.behind("ben", router)
        for each in (ann, ben):
            await here.lab.join(public, each, wan=True)
        await here.lab.all_linked(public, ann, ben)
        assert ann.mesh.links.current[ben.id].connection.peer.host.startswith("192.168.")


async def test_a_server_learns_topics_that_are_others_each_day_and_nothing_else(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[float, Any]] = []
    take = Board.take

    def record(self: Board, client: int, message: Any, now: float) -> Any:
        heard.append((now, message))
        return take(self, client, message, now)

    monkeypatch.setattr(Board, "take", record)
    async with internet(tmp_path, servers=1) as here:
        ann, ben = await here.founded("ann-of-the-lab", "ben-of-the-lab")
        handle = await ann.value("a-word-of-the-payload")
        await have(handle, ben)
        mesh_id, nodes = ann.mesh.id, [ann.id, ben.id]
        keys = [each.mesh.machine.keys.identity for each in (ann, ben)]
        await ben.stop()
        days: list[set[bytes]] = []
        for _ in range(3):
            await trio.sleep(2 * 3600)
            heard.clear()
            await trio.sleep(20 * 60)
            days.append({message.topic for _, message in heard if isinstance(message, Wait)})
            ann.time.wall_offset += DAY * 1000
        assert all(days) and not days[0] & days[1] and not days[1] & days[2]
        said = b"".join(repr(attrs.astuple(message)).encode() for _, message in heard)
        raw = b"".join(message.card + message.topic for _, message in heard if isinstance(message, Wait))
        for secret in (b"ann-of", b"ben-of", b"a-word", handle.encode(), handle.rpartition("_")[2][:12].encode()):
            assert secret not in said and secret not in raw
        for secret in (mesh_id, *nodes, *(each.noise_key for each in keys), *(each.signing_key for each in keys)):
            assert secret not in raw and secret.hex().encode() not in said


async def test_an_invitation_long_after_the_servers_were_let_go(autojump_clock: object, tmp_path: Path) -> None:
    async with internet(tmp_path) as here:
        ann, _ben = await here.founded("ann", "ben")
        cleo = await here.behind("cleo")
        await trio.sleep(120)
        assert not any(server.is_connected for server in ann.node.seeking.wan.servers), "nobody needed one"
        with trio.fail_after(30):
            await here.lab.join(ann, cleo, wan=True)
