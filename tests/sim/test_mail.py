"""Agents write to each other over a simulated mesh: what arrives, what the sender is told, who can read it."""

from pathlib import Path

import pytest
import trio

from meshd.errors import ExpiredError, NobodyFoundError, RefusedError, TimedOutError, UsageError
from tests.sim.mail_kit import Person
from tests.sim.nodes import lab, until, until_async


async def test_a_message_goes_through_all_its_states(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        await lee.bind()
        await until_async(lambda: _knows(kim, "lee"), "ann knows lee")
        here.cut_off(ben)
        await until(lambda: not ann.linked, "ann has lost ben")
        sent = await kim.send("lee@ben", text="the text")
        assert (sent.state, sent.to, sent.note) == ("stored", "lee@ben", "")
        here.bring_back(ben)
        await kim.comes_to(sent.handle, "replicated", within=180)
        waited = await lee.wait()
        assert [each.subject for each in waited.messages] == ["subject"]
        await kim.comes_to(sent.handle, "notified")
        received = await lee.receive(sent.handle)
        assert (received.text, received.sender.name, received.origin.name) == ("the text", "kim", "ann")
        await kim.comes_to(sent.handle, "read")
        assert (await lee.inbox()).unread == 0
        with pytest.raises(TimedOutError):
            await lee.wait(5)


async def test_a_third_machine_carries_what_it_cannot_read(autojump_clock: object, tmp_path: Path) -> None:
    """The reader is off, then the sender is."""
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        kim, lee, max_ = Person(ann, "kim"), Person(ben, "lee"), Person(cleo, "max")
        await ben.stop()
        sent = await kim.send("lee@ben", text="a very secret sentence", subject="and a subject")
        digest = bytes.fromhex(sent.full.rpartition("_")[2])

        async def carried() -> bool:
            found = await cleo.mesh.storage.read(lambda database: database.records.by_hash(digest))
            return found is not None and found.body is not None

        await until_async(carried, "cleo carries it")
        assert await kim.state(sent.handle) == "stored"
        with pytest.raises(RefusedError, match="carries it, sealed"):
            await max_.receive(sent.handle)
        await ann.stop()
        for path in (tmp_path / "cleo").rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert b"secret sentence" not in data and b"and a subject" not in data
        await ben.start()
        await lee.has("and a subject", within=180)
        assert await lee.subjects() == ["and a subject"]
        assert (await lee.receive(sent.handle)).text == "a very secret sentence"
        await ann.start()
        await kim.comes_to(sent.handle, "read", within=180)


async def test_what_has_expired_stays_out(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        await ben.stop()
        sent = await kim.send("lee@ben", ttl=60)
        await trio.sleep(61)
        await until_async(lambda: _expired(kim, sent.handle), "it has expired with its sender")
        await ben.start()
        await here.all_linked(ann, ben)
        await trio.sleep(5)
        assert await lee.subjects() == []
        with pytest.raises(ExpiredError):
            await lee.receive(sent.handle)


async def _expired(person: Person, handle: str) -> bool:
    try:
        await person.receive(handle)
    except ExpiredError:
        return True
    return False


async def test_groups_are_worked_out_at_both_ends(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee, pat = Person(ann, "kim"), Person(ben, "lee"), Person(ben, "pat")
        await kim.bind(tags=("reviewer",))
        await lee.bind(tags=("reviewer",), capabilities=("python",), label="Lee")
        await pat.bind()
        await until_async(lambda: _knows(kim, "lee", "pat"), "ann knows them")
        for to, reached in (
            ("tag:reviewer", {"lee"}),
            ("cap:python", {"lee"}),
            ("label:lee", {"lee"}),
            ("machine:ben", {"lee", "pat"}),
            ("broadcast", {"lee", "pat"}),
        ):
            sent = await kim.send(to, subject=to)
            assert {each.agent.name for each in sent.recipients} == reached, to
        await lee.has("tag:reviewer", "cap:python", "label:lee", "machine:ben", "broadcast")
        await pat.has("machine:ben", "broadcast")
        assert set(await pat.subjects()) == {"machine:ben", "broadcast"}
        assert await kim.subjects() == [], "nobody gets their own message by a group"
        # Who gets the tag later finds what was sent before.
        await pat.bind(tags=("reviewer",))
        assert "tag:reviewer" in await pat.subjects()
        assert (await kim.send("tag:nobody")).note


async def _knows(person: Person, *names: str) -> bool:
    found = await person.machine.call("who", mesh=None, to=None)
    return set(names) <= {each.agent.name for each in found.agents}


async def test_names_are_resolved_and_never_guessed(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        kim = Person(ann, "kim")
        for machine in (ben, cleo):
            await Person(machine, "Codex").bind()
        await Person(ben, "solo").bind()
        await until_async(lambda: _knows(kim, "Codex", "solo"), "ann knows them")
        await until_async(lambda: _count(kim, "Codex", 2), "ann knows both")
        with pytest.raises(UsageError, match="Codex@ben, Codex@cleo"):
            await kim.send("codex")
        assert (await kim.send("codex@cleo")).to == "Codex@cleo"
        assert (await kim.send("solo")).to == "solo@ben"
        for wrong, error in (
            ("solo@nowhere", NobodyFoundError),
            ("solo @ben", UsageError),
            ("so\u043bo", UsageError),
            ("solo ", UsageError),
            ("role:x", UsageError),
            ("tag:", UsageError),
            ("", UsageError),
        ):
            with pytest.raises(error):
                await kim.send(wrong)
        # Somebody unknown: the first to begin under that name finds it, wherever that is.
        sent = await kim.send("newcomer", subject="for the newcomer")
        assert sent.state == "stored" and "newcomer" in sent.note
        newcomer = Person(cleo, "newcomer")
        await newcomer.has("for the newcomer")
        await newcomer.receive(sent.handle)
        await kim.comes_to(sent.handle, "read")


async def _count(person: Person, name: str, number: int) -> bool:
    found = await person.machine.call("who", mesh=None, to=None)
    return sum(each.agent.name == name for each in found.agents) == number


async def test_nobody_speaks_or_reads_as_another(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        (ann,) = await here.founded("ann")
        kim, thief = Person(ann, "kim"), Person(ann, "thief")
        await kim.bind()
        await thief.bind()
        with pytest.raises(RefusedError, match="bound to thief"):
            await thief.machine.call(
                *("agent_register",), mesh=None, name="kim", label=None, tags=(), capabilities=(), status=None, bind=True,
                session=thief.session,
            )  # fmt: skip
        thief.name = "kim"
        with pytest.raises(RefusedError, match="bound to thief"):
            await thief.send("kim")
        with pytest.raises(RefusedError, match="bound to thief"):
            await thief.inbox()
        other = Person(ann, "KIM")
        with pytest.raises(RefusedError, match="bound to another program"):
            await other.send("thief@ann")
        with pytest.raises(RefusedError, match="bound to another program"):
            await other.bind()
        sent = await kim.send("thief@ann")
        stranger = Person(ann, "stranger")
        with pytest.raises(RefusedError, match="neither to stranger nor from it"):
            await stranger.receive(sent.handle)
        with pytest.raises(RefusedError, match="neither to stranger nor from it"):
            await stranger.close(sent.handle)
        kim.session.end()
        await other.bind()


async def test_a_second_try_with_one_key_is_the_first(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        (ann,) = await here.founded("ann")
        kim = Person(ann, "kim")
        handles = []

        async def send() -> None:
            handles.append((await kim.send("lee@ann", key="one")).handle)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(send)
        await ann.stop()
        await ann.start()
        again = await kim.send("lee@ann", text="another text", key="one")
        assert {*handles, again.handle} == {again.handle} and again.again
        assert len(await Person(ann, "lee").subjects()) == 1
        assert not (await kim.send("lee@ann", key="two")).again
        assert not (await Person(ann, "pat").send("lee@ann", key="one")).again, "keys are an agent's own"


async def test_a_ticket_that_is_closed_stays_so_for_what_comes_later(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        for number in range(2):
            await kim.send("lee@ben", subject=f"of T-1 {number}", ticket="T-1")
        other = await kim.send("lee@ben", subject="of T-2", ticket="T-2")
        await lee.has("of T-1 0", "of T-1 1", "of T-2")
        closed = await lee.close(ticket="T-1", status="superseded", reason="no need")
        assert closed.updated == 2
        assert await lee.subjects() == ["of T-2"]
        await kim.send("lee@ben", subject="late", ticket="T-1")
        await lee.has("late")
        assert await lee.subjects() == ["of T-2"]
        # One message, and the sender sees why.
        await lee.close(other.handle, reason="done")

        async def seen() -> bool:
            return (await kim.receive(other.handle)).reason == "done"

        await until_async(seen, "the sender sees it")
        assert (await lee.close(other.handle)).updated == 0


async def test_replies_make_a_chain_and_gaps_are_shown(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, cleo = await here.founded("ann", "ben", "cleo")
        kim, lee, pat = Person(ann, "kim"), Person(ben, "lee"), Person(cleo, "pat")
        first = await kim.send("lee@ben", subject="first", thread="plan")
        await lee.has("first")
        second = await lee.send("kim@ann", subject="second", reply_to=first.handle, thread="plan")
        await kim.has("second")
        third = await kim.send("pat@cleo", subject="third", reply_to=second.handle)
        await pat.has("third")

        async def shown(person: Person, of: str) -> tuple[list[str], int]:
            found = await person.machine.call("thread", mesh=None, of=of, agent=person.name, session=person.session)
            return [each.subject for each in found.messages], len(found.missing)

        assert await shown(kim, third.handle) == (["first", "second", "third"], 0)
        assert await shown(pat, third.handle) == (["third"], 1)
        assert await shown(lee, "plan") == (["first", "second"], 0)
        made = await ann.call("thread_create", mesh=None, name="plan", description="what to do")
        assert made.messages == 2

        async def told() -> bool:
            (found,) = (await ben.call("threads", mesh=None)).threads
            return bool(found.description == "what to do" and found.messages == 2)

        await until_async(told, "ben knows what it is about")


async def test_a_question_is_answered(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")

        async def ask(to: str, seconds: float = 30, queue: bool = False) -> str:
            answered = await ann.call(
                "ask", mesh=None, to=to, subject="question", text="?", sender="kim", attach=(), seconds=seconds, queue=queue,
                key=None, session=kim.session,
            )  # fmt: skip
            text: str = answered.reply.text
            return text

        with pytest.raises(RefusedError, match="is known"):
            await ask("lee@ben")
        await lee.bind()
        await until_async(lambda: _knows(kim, "lee"), "ann knows lee")

        async def answer() -> None:
            (question,) = (await lee.wait()).messages
            await lee.send("kim@ann", text="the answer", reply_to=question.handle)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await ask("lee@ben") == "the answer"
        with pytest.raises(TimedOutError, match="stays sent"):
            await ask("lee@ben", seconds=2)
        here.cut_off(ben)
        await until(lambda: not ann.linked, "ann has lost ben")
        with pytest.raises(RefusedError, match="can be reached now"):
            await ask("lee@ben")
        with pytest.raises(TimedOutError):
            await ask("lee@ben", seconds=1, queue=True)


async def test_presence_says_what_is_known(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        lee = Person(ben, "lee")
        await lee.bind(status="busy")

        async def is_(presence: str) -> bool:
            found = (await ann.call("who", mesh=None, to=None)).agents
            return any(each.agent.name == "lee" and each.presence == presence for each in found)

        await until_async(lambda: is_("live"), "lee is live")
        lee.session.end()
        await until_async(lambda: is_("stale"), "lee is gone")
        lee = Person(ben, "lee")
        await lee.bind()
        await until_async(lambda: is_("live"), "lee is back")
        here.cut_off(ben)
        await until(lambda: not ann.linked, "ann has lost ben")
        assert await is_("unreachable")
        # A daemon that was killed has told nobody; after its start it does.
        await ben.stop()
        here.bring_back(ben)
        await ben.start()
        await here.all_linked(ann, ben)
        assert await is_("live")
        await until_async(lambda: is_("stale"), "its program did not come back")
        await here.agree(ann, ben)


async def test_many_messages_keep_their_order(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben = await here.founded("ann", "ben")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        for number in range(300):
            await kim.send("lee@ben", subject=str(number))
        seen: list[str] = []
        after = None
        while len(seen) < 300:
            waited = await lee.wait(after=after)
            seen += [each.subject for each in waited.messages]
            after = waited.next
        assert seen == [str(number) for number in range(300)]
        pages, after = [], None
        while True:
            page = await lee.inbox(limit=70, after=after)
            pages += [each.subject for each in page.messages]
            after = page.next
            if after is None:
                break
        assert pages == seen[::-1]
