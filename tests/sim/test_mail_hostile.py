"""A member that signs what it likes: what it must not do to the mail of others."""

from pathlib import Path
from typing import Any

import msgspec
import trio

from meshd.drivers.intake import Wish
from meshd.model.message import (
    Agent,
    Attached,
    Card,
    Letter,
    OpenMail,
    Reached,
    Target,
    Thread,
    Words,
)
from meshd.model.record import Log
from meshd.notices import Trouble
from meshd.surfaces.control import LINE_LIMIT
from meshd.wire.codec import encode_body
from tests.sim.mail_kit import Person
from tests.sim.nodes import Machine, lab, until


def a_letter(sender: str, *to: Agent, **fields: Any) -> Letter:
    given = {
        **{"target": Target("agent"), "subject": "subject", "text": "text", "attached": (), "tags": (), "ticket": ""},
        **{"thread": "", "reply_to": b"", "key": ""},
        **fields,
    }
    return Letter(sender=sender, to=to, **given)


async def write(machine: Machine, said: Letter | Words, *others: Machine) -> bytes:
    """Seal and write it, whatever it says."""
    draft = machine.mesh.mailroom._draft(said, [each.id for each in others])
    (record,) = await machine.mesh.journal.append(draft)
    return record.hash


async def write_bytes(machine: Machine, kind: str, data: bytes) -> None:
    """A signed record of this type with any body."""
    journal = machine.mesh.journal
    async with journal._lock:
        await journal._write([Wish(kind, Log.DATA, None, data, 0)])  # type: ignore[arg-type]


def size(answer: Any) -> int:
    return len(msgspec.json.encode(answer))


async def heard(machine: Machine, *others: Machine) -> None:
    """What this machine has written is with the others."""
    chain = next(each for each in machine.mesh.journal.heads(Log.DATA) if each.author == machine.mesh.me.signing_key)  # type: ignore[union-attr]

    def there() -> bool:
        head = machine.mesh.journal.heads(Log.DATA)[chain]
        return all(each.mesh.journal.heads(Log.DATA).get(chain) == head for each in others)

    await until(there, "it is there")


async def test_lists_can_be_read_whatever_is_sent(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        lee = Person(ann, "lee")
        kim = Person(ann, "kim")
        await kim.send("lee@ann", subject="honest")
        wide = "\U0001f600" * 63
        to = (Agent("lee", ann.id), *(Agent(f"{number:063}", eve.id) for number in range(255)))
        for _ in range(60):
            await write(
                eve,
                a_letter(
                    "x",
                    *to,
                    tags=tuple(f"{n:02}{wide[:61]}" for n in range(32)),
                    subject="\U0001f600" * 200,
                    thread="plan",
                    text="word",
                ),
                ann,
            )
        await heard(eve, ann)
        assert len((await lee.inbox()).messages) > 8
        subjects, after = [], None
        while True:
            page = await lee.inbox(after=after)
            subjects += [each.subject for each in page.messages]
            after = page.next
            if after is None:
                break
        assert len(subjects) == 61 and "honest" in subjects, "it is told where the page ended"
        view = await ann.call("thread", mesh=None, of="plan", agent="lee", session=lee.session)
        found = await ann.call("search", mesh=None, query="word", agent="lee", limit=100, session=lee.session)
        assert all(size(each) < LINE_LIMIT for each in (await lee.inbox(), await lee.wait(), view, found))


async def test_who_and_threads(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        wide = "\U0001f600" * 63
        words = tuple(f"{n:02}{wide[:61]}" for n in range(32))
        await eve.mesh.journal.append(
            *(
                Card(
                    name=f"a{n}", label=wide, tags=words, capabilities=words, status="s" * 500, live=True, removed=False
                )
                for n in range(400)
            )
        )
        await eve.mesh.journal.append(*(Thread(name=f"t{n}", description="d" * 500) for n in range(3000)))
        await heard(eve, ann)
        await Person(ann, "kim").send("lee@ann", thread="zz")
        who = await ann.call("who", mesh=None, to=None)
        assert "kim" in {each.agent.name for each in who.agents} and who.left_out
        threads = await ann.call("threads", mesh=None)
        assert size(who) < LINE_LIMIT
        assert size(threads) < LINE_LIMIT and threads.left_out
        assert "zz" in {each.name for each in threads.threads}


async def test_recipients_are_those_of_the_letter(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        kim = Person(ann, "kim")
        sent = await kim.send("lee@eve")
        digest = bytes.fromhex(sent.full.rpartition("_")[2])
        for n in range(700):
            await write(
                eve, Words(letters=(digest,), ticket="", agent=f"{n:063}", state="notified", status="", reason=""), ann
            )
        await heard(eve, ann)
        found = await ann.call(
            "sent", mesh=None, handle=sent.handle, agent="kim", limit=1, after=None, session=kim.session
        )
        assert len(found.messages[0].recipients) <= 33


async def test_a_question_is_answered_by_whom_it_was_for(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, ben, eve = await here.founded("ann", "ben", "eve")
        kim, lee = Person(ann, "kim"), Person(ben, "lee")
        await lee.bind()

        async def answer() -> None:
            (question,) = (await lee.wait()).messages
            digest = bytes.fromhex(question.full.rpartition("_")[2])
            # It carries the question, and so knows its handle.
            await write(eve, a_letter("lee", Agent("kim", ann.id), text="a lie", reply_to=digest), ann)
            await heard(eve, ann, ben)
            await trio.sleep(1)
            await lee.send("kim@ann", text="the answer", reply_to=question.handle)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            answered = await ann.call(
                "ask", mesh=None, to="lee@ben", subject="question", text="?", sender="kim", attach=(), seconds=30.0, queue=True,
                key=None, session=kim.session,
            )  # fmt: skip
        assert answered.reply.text == "the answer"


async def test_a_closed_letter_says_so(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        lee = Person(ann, "lee")
        digest = await write(
            eve, a_letter("x", Agent("lee", ann.id), attached=(Attached("a\nb\x1b[2J c", bytes(32)),)), ann
        )
        await heard(eve, ann)
        await write(eve, Words(letters=(digest,), ticket="", agent="x", state="closed", status="", reason=""), ann)
        await heard(eve, ann)
        found = (await lee.inbox(include_closed=True)).messages
        assert [each.handle for each in found] == [each.handle for each in (await lee.inbox()).messages]


NONSENSE = [
    b"",
    b"\xc0",
    b"\x80",
    b"\x90",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 5000,
    b"\x81\xa1a" * 3000,
    encode_body({"boxes": [{"signing_key": bytes(32), "box": b""}] * 64, "salt": bytes(32), "sealed": b""}),
    encode_body({"signing_key": bytes(32), "generation": (1 << 64) - 1, "sequence": (1 << 64) - 1}),
    encode_body({"signing_key": bytes(32), "generation": (1 << 63) - 1, "sequence": (1 << 63) - 1}),
    encode_body({"signing_key": bytes(32), "generation": -1, "sequence": 1.5}),
]


async def test_any_bytes(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        lee = Person(ann, "lee")
        me = ann.mesh.me.signing_key  # type: ignore[union-attr]
        more = [
            encode_body({"boxes": [{"signing_key": me, "box": bytes(n)}], "salt": bytes(32), "sealed": bytes(n)})
            for n in (0, 1, 31, 32, 48, 144, 160)
        ]
        for kind in ("mail.sealed", "mail.open", "mail.reached", "agent.card", "mail.thread"):
            for data in NONSENSE + more:
                await write_bytes(eve, kind, data)
        for target in (
            Target("machine", node=b"\1"),
            Target("machine", node=ann.id),
            Target("agent"),
            Target("name", ""),
            Target("tag", ""),
            Target("broadcast", "b"),
        ):
            await eve.mesh.journal.append(
                OpenMail(letter=a_letter("x", Agent("lee", ann.id), target=target, subject=target.key))
            )
        for target in (Target("machine"), Target("tag", "a", b"1")):
            await eve.mesh.journal.append(
                OpenMail(letter=a_letter("x", Agent("lee", ann.id), target=target, subject="bad"))
            )
        await eve.mesh.journal.append(
            Reached(signing_key=me, generation=(1 << 63) - 1, sequence=(1 << 63) - 1, without=())
        )
        await heard(eve, ann)
        await trio.sleep(5)
        page = await lee.inbox()
        assert {each.to for each in page.messages} == {"lee", "machine:ann"}
        for each in page.messages:
            await lee.receive(each.handle)


async def test_many_unreadable(autojump_clock: object, tmp_path: Path) -> None:
    async with lab(tmp_path) as here:
        ann, eve = await here.founded("ann", "eve")
        me = ann.mesh.me.signing_key  # type: ignore[union-attr]
        data = encode_body({"boxes": [{"signing_key": me, "box": bytes(144)}], "salt": bytes(32), "sealed": bytes(512)})
        here.cut_off(ann)
        await until(lambda: not ann.linked, "cut")
        for _ in range(300):
            await write_bytes(eve, "mail.sealed", data)
        here.bring_back(ann)
        await until(lambda: ann.linked, "back")
        await heard(eve, ann)
        await trio.sleep(20)
        left = await ann.mesh.storage.read(lambda d: d.mail.unreadable(64))

        assert not left and len(ann.saw(Trouble)) < 10
