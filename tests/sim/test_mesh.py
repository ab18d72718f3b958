"""Whole nodes on a simulated network, in virtual time: who belongs, what they know, and how they find out."""

import shutil
from pathlib import Path

import trio

from meshd.model import clock
from meshd.model.announcement import Value
from meshd.model.handle import Handle, canonical, digest_of
from meshd.model.identity import Keys
from meshd.model.record import Log, LogId, Record, write_record
from meshd.notices import ForkFound, GenerationOpened, Quarantined, RosterChanged
from meshd.wire.bodies import encode
from meshd.wire.sync import Arrived
from tests.sim.nodes import Machine, lab, until, until_async

MINUTE = 60


def keys_of(machine: Machine) -> Keys:
    assert machine.node is not None
    return machine.node.machine.keys


async def have(handle: str, *machines: Machine, within: float = 60.0) -> None:
    for machine in machines:
        await until_async(lambda machine=machine: machine.has(handle), f"{machine.name} has {handle}", within)


async def revoke(by: Machine, target: str, *keep: str) -> None:
    await by.call("revoke", mesh=None, machine=target, keep=keep, reason="", dry_run=False)


def current(machine: Machine) -> set[bytes]:
    """The mesh secrets that nothing replaces, as the roster names them."""
    return {each.hash for each in machine.mesh.roster.secrets}


def readable(machine: Machine) -> set[bytes]:
    """Those of them that this machine can read."""
    return current(machine) & {each.record for each in machine.mesh.secrets}


async def test_machines_join_and_replicate_both_ways(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        for machine in (ann, ben, cleo):
            await have(await machine.value(machine.name), ann, ben, cleo)
        await here.agree(ann, ben, cleo)
        assert ann.standings == ben.standings == cleo.standings == dict.fromkeys(("ann", "ben", "cleo"), "active")
        assert not current(ann), "nobody was revoked, so the founder's secret is the one"


async def test_a_partition_heals_by_itself_through_any_member(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        here.cut_off(cleo)
        await until(lambda: "cleo" not in ann.linked | ben.linked, "the link is given up")
        here_only, there_only = await ann.value("here"), await cleo.value("there")
        await have(here_only, ben)
        assert not await cleo.has(here_only) and not await ann.has(there_only)
        # Only ben reaches it again: what ann wrote comes through ben, and the other way round.
        here.bring_back(cleo, ben)
        await have(here_only, cleo, within=120)
        await have(there_only, ann, within=120)
        assert "cleo" not in ann.linked
        await here.agree(ann, ben, cleo)


async def test_who_was_away_catches_up_with_the_only_one_that_is_left(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        await ben.stop()
        handles = [await ann.value(str(number)) for number in range(50)]
        await have(handles[-1], cleo)
        await ann.stop()
        await ben.start()
        await have(handles[-1], ben)
        assert all([await ben.has(each) for each in handles])
        await here.agree(ben, cleo)


async def test_a_revoked_machine_is_refused_also_by_one_that_was_away(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        before = await ben.value("before")
        await have(before, ann, cleo)
        await cleo.stop()
        # Ben hears nothing of it, and goes on writing.
        here.cut_off(ben)
        await revoke(ann, "ben")
        after = await ben.value("after")
        await cleo.start()
        await here.all_linked(ann, cleo)
        await until(lambda: cleo.standings["ben"] == "revoked", "cleo has heard")
        here.bring_back(ben)
        # Links of ben's would bring it everything within a second: it gets half an hour.
        marker = await cleo.value("marker")
        for _ in range(60):
            await trio.sleep(30)
            assert "ben" not in ann.linked | cleo.linked
        assert not await ben.has(marker)
        assert await cleo.has(before) and await ann.has(before)
        assert not await cleo.has(after) and not await ann.has(after)
        (secret,) = current(ann)
        assert readable(cleo) == {secret}, "those who stay have a new secret"
        assert secret not in {each.record for each in ben.mesh.secrets}


async def test_the_suspended_come_back_by_another_admission(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        cleo = await here.machine("cleo")
        await here.join(ben, cleo)
        await here.all_linked(ann, ben, cleo)
        handle = await cleo.value("mine")
        await have(handle, ann)
        await revoke(ann, "ben")
        await until(lambda: not ann.linked, "both are out")
        assert ann.standings == {"ann": "active", "ben": "revoked", "cleo": "suspended"}
        assert not await ann.has(handle), "what it wrote waits"
        await here.join(ann, cleo)
        await here.all_linked(ann, cleo)
        await have(handle, ann, cleo)
        await have(await cleo.value("again"), ann)
        await here.agree(ann, cleo)
        await until(lambda: current(cleo) and readable(cleo) == current(cleo), "it has the secret that it missed")


async def test_a_newcomer_shows_itself_to_a_member_that_never_heard_of_it(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with lab(tmp_path) as here:
        ann, cleo = await here.founded("ann", "cleo")
        read = ann.mesh.storage.read
        await until_async(lambda: read(lambda database: database.handles.addresses(cleo.id)), "it says where it is")
        here.cut_off(cleo)
        await until(lambda: not ann.linked, "cleo is away")
        ben = await here.machine("ben")
        here.cut_off(cleo, ben)
        await here.join(ann, ben)
        await here.all_linked(ann, ben)
        known = ben.mesh.links.entries
        await until(lambda: cleo.id in {each.node for each in known()}, "ben has heard where cleo is")
        await ann.stop()
        assert "ben" not in cleo.standings
        here.bring_back(cleo, ben)
        await until(lambda: ben.linked == {"cleo"} and cleo.linked == {"ben"}, "they meet", 120)
        await until(lambda: cleo.standings.get("ben") == "active", "its admission came with it")
        await have(await ben.value("hello"), cleo)
        await have(await cleo.value("hello yourself"), ben)


async def test_concurrent_revocations_leave_secrets_that_no_outcast_reads(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        dan, eve = await here.machine("dan"), await here.machine("eve")
        await here.join(ben, dan)
        await here.join(cleo, eve)
        await here.all_linked(ann, ben, cleo, dan, eve)
        here.cut_off(ben, cleo)
        here.cut_off(ann)
        await until(lambda: not ann.linked, "ann is away")
        # Each makes a secret that the other's outcast could read, if it got it.
        here.cut_off(dan)
        here.cut_off(eve)
        await revoke(ben, "dan")
        await revoke(cleo, "eve")
        await until(lambda: len(current(ben)) == len(current(cleo)) == 1, "both have made a secret")
        for one, other in ((ann, ben), (ann, cleo), (ben, cleo)):
            here.bring_back(one, other)
        await here.all_linked(ann, ben, cleo)
        await here.agree(ann, ben, cleo)
        await until(lambda: all(readable(each) == current(each) for each in (ann, ben, cleo)), "all read all")
        out = {keys_of(dan).identity.signing_key, keys_of(eve).identity.signing_key}

        def is_closed() -> bool:
            return not any(box.signing_key in out for secret in ann.mesh.roster.secrets for box in secret.sealed)

        await until(is_closed, "a secret that an outcast can read is replaced")
        found = current(ann)
        await trio.sleep(10 * MINUTE)
        assert current(ann) == current(ben) == current(cleo) == found, "and then there is peace"


async def test_a_machine_that_leaves_is_answered_by_a_new_secret(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        left = await ben.call("leave", mesh=None)
        assert left.told == 2
        await until(lambda: len(current(cleo)) == 1 and readable(cleo) == current(cleo), "there is a new secret")
        assert ann.mesh.roster.secrets[0].author == keys_of(ann).identity.signing_key, "by its parent, once"
        assert ann.standings["ben"] == "revoked"
        assert ben.node is not None and not ben.node.meshes
        assert not list((tmp_path / "ben" / "meshes").iterdir()), "nothing is left of it"
        await ben.stop()
        await ben.start()
        assert ben.node is not None and not ben.node.meshes


async def test_a_newcomer_needs_no_secret_of_its_own(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, _, cleo = await here.founded("ann", "ben", "cleo")
        await revoke(ann, "ben")
        await until(lambda: len(current(cleo)) == 1, "a secret is made")
        found = current(cleo)
        dan = await here.machine("dan")
        await here.join(cleo, dan)
        await here.all_linked(ann, cleo, dan)
        await trio.sleep(5 * MINUTE)
        assert current(ann) == current(dan) == readable(dan) == found, "it got that one when it came in"


def next_record(author: Machine, text: str) -> Record:
    """What this machine would write next, but for the text: with its own keys, past its journal."""
    keys = keys_of(author)
    chain = LogId(keys.identity.signing_key, Log.DATA, author.mesh.journal.generation)
    return write_record(
        keys,
        mesh=author.mesh.id,
        log=Log.DATA,
        generation=chain.generation,
        previous=author.mesh.journal.heads(Log.DATA)[chain],
        clock=clock.at(author.time.clocks.wall_ms()),
        kind="handle.value",
        body=encode(Value(table="notes", json=canonical(text), blob=None, tags=())),
    )


def handle_of(text: str) -> str:
    return str(Handle.of("notes", digest_of(canonical(text))))


async def test_a_double_number_is_found_by_any_two_that_compare(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        good = await ben.value("good")
        await have(good, ann, cleo)
        one, other = next_record(ben, "for ann"), next_record(ben, "for cleo")
        await ben.stop()
        here.cut_off(ann)
        await until(lambda: not ann.linked and not cleo.linked, "each is alone")
        await ann.mesh.journal.accept([Arrived(one, 0)])
        await cleo.mesh.journal.accept([Arrived(other, 0)])
        assert await ann.has(handle_of("for ann")) and await cleo.has(handle_of("for cleo"))
        here.bring_back(ann)
        await until(lambda: ann.saw(ForkFound) and cleo.saw(ForkFound), "both tell people", 120)
        for machine in (ann, cleo):
            assert {(each.name, each.sequence) for each in machine.saw(ForkFound)} == {("ben", one.header.sequence)}
            assert await machine.has(good), "what came before it counts"
            assert not await machine.has(handle_of("for ann")) and not await machine.has(handle_of("for cleo"))
        await here.agree(ann, cleo)
        # The author hears of it, and goes on under another generation.
        await ben.start()
        await here.all_linked(ann, ben, cleo)
        await until(lambda: ben.mesh.roster.forks, "it hears of it")
        await have(await ben.value("honest again"), ann, cleo)
        await here.agree(ann, ben, cleo)


async def test_a_clock_far_ahead_waits_and_is_let_in_when_its_time_comes(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        ben.time.wall_offset = 10 * MINUTE * 1000
        early = await ben.value("from the future")
        await until(lambda: ann.saw(Quarantined) and cleo.saw(Quarantined), "they notice")
        assert not await ann.has(early) and not await cleo.has(early)
        problems = (await ann.call("status", mesh=None)).meshes[0].problems
        assert any("ben" in each.what and "ahead" in each.what for each in problems)
        ben.time.wall_offset = 0
        later = await ben.value("with the right clock, behind it")
        mine = await ann.value("mine")
        await have(mine, ben, cleo)
        assert not await ann.has(later), "a chain is folded in order"
        # Nobody's clock followed it.
        assert (await ann.call("metadata", mesh=None, handle=mine)).age < 60
        await have(early, ann, cleo, within=10 * MINUTE)
        await have(later, ann, cleo)
        await here.agree(ann, ben, cleo)
        assert not (await ann.call("status", mesh=None)).meshes[0].problems


async def test_a_copied_state_forks_nothing(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        await ben.stop()
        shutil.copytree(tmp_path / "ben", tmp_path / "copy")
        await ben.start()
        await here.all_linked(ann, ben)
        first = await ben.value("the original")
        await have(first, ann)
        await ben.stop()
        copy = await here.machine("copy")
        await here.all_linked(ann)
        await until(lambda: copy.linked == {"ann"}, "the copy is linked as ben")
        second = await copy.value("the copy")
        await have(second, ann)
        await have(first, copy)
        assert copy.saw(GenerationOpened)
        assert not ann.mesh.roster.forks and not ann.saw(ForkFound)
        await here.agree(ann, copy)


async def test_who_loses_patience_half_way_leaves_a_mesh_or_nothing(autojump_clock: object, tmp_path: Path) -> None:
    """`init` whose caller goes away at every step that it takes."""
    async with lab(tmp_path) as here:
        ann = await here.machine("ann")
        for step in range(200):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, step)
                    await ann.call("init", mesh=f"mesh{step}", name="ann", recovery=False)
                    nursery.cancel_scope.cancel()
            assert ann.node is not None
            made, kept = len(ann.node.meshes), len(ann.node.machine.state.mesh_directories())
            assert made == kept
            assert not list(ann.node.machine.state.incoming.iterdir())
            for mesh in list(ann.node.meshes.values()):
                await ann.node.forget(mesh)
            if not scope.cancelled_caught:
                assert made == 1
                return
        raise AssertionError("it never came to its end")


async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_two_who_leave_at_once_leave_once(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        _, ben = await here.founded("ann", "ben")
        mesh = ben.mesh
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ben.node.forget, mesh)
        assert not ben.node.meshes and not list((tmp_path / "ben" / "meshes").iterdir())


async def test_people_hear_who_came_and_who_is_out(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, _, cleo = await here.founded("ann", "ben", "cleo")
        await revoke(ann, "ben")
        await until(lambda: cleo.standings["ben"] == "revoked", "cleo has heard")
        told = " ".join(each.change for each in cleo.saw(RosterChanged))
        assert "ben is revoked" in told


async def test_who_is_revoked_or_suspended_while_linked_hears_it(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path, delay=0.05) as here:
        ann, ben = await here.founded("ann", "ben")
        cleo = await here.machine("cleo")
        await here.join(ben, cleo)
        await here.all_linked(ann, ben, cleo)
        await revoke(ann, "ben")
        await until(lambda: not ann.linked, "both are out")
        after = await ann.value("after")
        standings = {"ann": "active", "ben": "revoked", "cleo": "suspended"}
        await until(lambda: ben.standings == cleo.standings == standings, "both have heard", within=5)
        for machine in (ben, cleo):
            assert any(machine.name in each.change for each in machine.saw(RosterChanged))
            assert not await machine.has(after)
