"""Mail that counts later than it came: out of quarantine, with a tag that is gained, or with a member that is back."""

from pathlib import Path
from typing import Any

import pytest
import trio

from meshd.errors import RefusedError
from tests.sim.mail_kit import Person
from tests.sim.nodes import lab, until

MINUTE = 60_000


async def test_what_leaves_quarantine_is_told_and_not_skipped(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        kim, lee, pat = Person(ann, "kim"), Person(ben, "lee"), Person(cleo, "pat")
        await pat.send("lee@ben", subject="before")
        await lee.has("before")
        ann.time.wall_offset = 10 * MINUTE
        sent = await kim.send("lee@ben", subject="from a fast clock")
        await until(lambda: ben.mesh.journal.waiting, "ben waits for it")
        await pat.send("lee@ben", subject="meanwhile")
        await lee.has("meanwhile")
        first = await lee.wait()
        assert [each.subject for each in first.messages] == ["before", "meanwhile"]
        with trio.fail_after(900):
            late = await lee.wait(600, after=first.next)
        assert [each.subject for each in late.messages] == ["from a fast clock"]
        await kim.comes_to(sent.handle, "notified", within=30)


async def test_who_is_waiting_and_gains_a_tag_finds_what_it_means(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        (ann,) = await here.founded("ann")
        kim, lee = Person(ann, "kim"), Person(ann, "lee")
        await lee.bind()
        await kim.send("tag:late", subject="for the late")

        async def gain() -> None:
            await trio.sleep(1)
            await lee.bind(tags=("late",))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(gain)
            assert [each.subject for each in (await lee.wait(30)).messages] == ["for the late"]


async def test_a_name_that_is_refused_is_not_bound(autojump_clock: object, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("meshd.node.agents.AGENTS_LIMIT", 1)
    async with lab(tmp_path) as here:
        (ann,) = await here.founded("ann")
        await Person(ann, "kim").bind()
        lee = Person(ann, "lee")
        with pytest.raises(RefusedError, match="agents already"):
            await lee.bind()
        assert not lee.session.agent


async def test_who_is_known_is_answered_while_cards_come_and_come(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        (ann,) = await here.founded("ann")
        await Person(ann, "kim").bind()
        agents = ann.mesh.agents
        read = ann.mesh.storage.read

        async def slowly(job: Any) -> Any:
            found = await read(job)
            await trio.sleep(0.1)
            agents.forget()  # another card came meanwhile
            return found

        ann.mesh.storage.read = slowly  # type: ignore[method-assign]
        agents.forget()
        with trio.move_on_after(5) as scope:
            assert await agents.known()
        assert not scope.cancelled_caught


async def test_an_agent_of_a_machine_that_is_put_out_meanwhile(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        lee = Person(ben, "lee")
        append = ben.mesh.journal.append

        async def then_out(*bodies: Any, **how: Any) -> Any:
            done = await append(*bodies, **how)
            await ann.call("revoke", mesh=None, machine="ben", keep=(), reason="", dry_run=False)
            await until(lambda: not ben.mesh.is_in, "ben knows")
            return done

        ben.mesh.journal.append = then_out  # type: ignore[method-assign]
        with pytest.raises(RefusedError):
            await lee.bind()


async def test_a_session_outlives_its_mesh(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        _, ben = await here.founded("ann", "ben")
        lee = Person(ben, "lee")
        await lee.bind()
        await ben.call("leave", mesh=None)
        await ben.call("init", mesh="other", name="ben", recovery=False)
        assert (await lee.inbox()).agent.name == "lee"
        await lee.bind()
        assert lee.session.mesh == ben.mesh.hex


async def test_mail_that_came_while_its_author_did_not_count_is_told(autojump_clock: object, tmp_path: Path) -> None:
    """What a roster change brings back is mail that nobody wrote just now."""
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        await kim.send("lee@ben", subject="one")
        await lee.has("one")
        chain = next(
            each for each in ben.mesh.journal.heads() if each.author == ann.mesh.journal.keys.identity.signing_key
        )
        chain = type(chain)(chain.author, type(chain.log).DATA, chain.generation)
        await ben.mesh.storage.write(lambda database: database.handles.set_live(chain, 0))
        assert await lee.subjects() == []

        async def back() -> None:
            await trio.sleep(1)
            await ben.mesh.storage.write(lambda database: database.handles.set_live(chain, None))
            ben.mesh._on_roster(ben.mesh.roster)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back)
            assert [each.subject for each in (await lee.wait(30)).messages] == ["one"]
