"""Two joining machines back to back, whoever does not keep to it, and the vectors of tests/vectors/joining.json."""

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RefusedError, RemoteProtocolError
from meshd.model.facts import countersign
from meshd.model.identity import Context, Keys
from meshd.model.record import NO_HASH
from meshd.protocol.joining import JOINING_DEADLINE, Admitting, Asked, Consented, Failed, Joined, Offered, Welcomed
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import HEADER, FrameDecoder, encode_frame
from meshd.wire.joining import (
    BATCH_LIMIT,
    FRAMES_OF_MEMBER,
    FRAMES_OF_NEWCOMER,
    ROSTER_RECORDS,
    Admitted,
    Consent,
    Join,
    JoinOffer,
    MeshSecret,
    RosterBatch,
)
from tests.protocol import joining_kit
from tests.protocol.back_to_back import fixed_bytes
from tests.protocol.joining_kit import HASH, Mesh, Ran, admission_of, admitting, entering, secrets_of, talk
from tests.protocol.session_kit import ALICE, BOB, CAROL
from tests.vectors.make_joining import FILE, build

SECRET = MeshSecret(number=1, record=NO_HASH, secret=fixed_bytes("mesh secret"))


def sides(mesh: Mesh | None = None) -> tuple[Ran, Ran]:
    """The newcomer and the member."""
    mesh = mesh or Mesh()
    return Ran(entering(), mesh), Ran(admitting(mesh), mesh)


def test_the_vectors_are_what_the_machines_make() -> None:
    assert json.loads(json.dumps(build())) == json.loads(FILE.read_text())


@pytest.mark.parametrize("piece", [None, 1, 1000])
def test_a_machine_joins(piece: int | None) -> None:
    newcomer, member = sides()
    talk(newcomer, member, piece=piece)
    assert [type(event) for event in newcomer.events] == [Offered, Welcomed, Joined]
    assert [type(event) for event in member.events] == [Asked, Consented, Joined]
    welcomed = newcomer.event(Welcomed)
    assert isinstance(welcomed, Welcomed)
    assert welcomed.records == tuple(member.mesh.encoded) and welcomed.secrets == (SECRET,)
    assert welcomed.offered == Offered(member.mesh.id, "home", ALICE.identity, "bob")
    assert admission_of(member) == countersign(BOB, member.mesh.id, ALICE.identity.signing_key, "bob")
    assert member.mesh.roster().members[BOB.identity.signing_key].is_active
    for side in (newcomer, member):
        assert side.machine.next_deadline() is None


def test_secrets_are_not_in_what_is_printed() -> None:
    newcomer, member = sides()
    talk(newcomer, member)
    assert repr(SECRET.secret) not in repr(newcomer.events) + repr(member.events)


def test_the_member_says_what_the_newcomer_is_called() -> None:
    newcomer, member = sides()
    machine = member.machine
    assert isinstance(machine, Admitting)
    machine.receive_data(newcomer.turn(), 1.0)
    assert machine.next_event() == Asked(BOB.identity, "bob")
    machine.offer("bob-2")
    newcomer.feed(member.turn())
    offered = newcomer.event(Offered)
    assert isinstance(offered, Offered) and offered.name == "bob-2"


def test_a_roster_of_any_size_comes_in_its_order() -> None:
    newcomer, member = sides()
    records = [bytes([number % 251]) * size for number, size in enumerate([1, 100, BATCH_LIMIT // 2, 200_000] * 12)]
    member.records = records
    talk(newcomer, member)
    welcomed = newcomer.event(Welcomed)
    assert isinstance(welcomed, Welcomed) and list(welcomed.records) == records
    decoder = FrameDecoder(FRAMES_OF_MEMBER)
    decoder.receive(member.sent)
    kinds = []
    while (frame := decoder.next_frame()) is not None:
        kinds.append(frame[0])
    assert kinds.count(Frame.ROSTER) > 3


@pytest.mark.parametrize("who", ["member at once", "member after consent", "newcomer at once", "newcomer at the end"])
def test_either_may_say_no_and_the_other_hears_why(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    no = RefusedError("it is called like another")
    newcomer, member = sides()
    asked = {
        "member at once": Asked,
        "member after consent": Consented,
        "newcomer at once": Offered,
        "newcomer at the end": Welcomed,
    }[who]
    agree = Ran._answer

    def answer(ran: Ran, event: object) -> None:
        if isinstance(event, asked):
            ran.machine.refuse(no)
        else:
            agree(ran, event)

    monkeypatch.setattr(joining_kit.Ran, "_answer", answer)
    talk(newcomer, member)
    refuser, other = (member, newcomer) if who.startswith("member") else (newcomer, member)
    assert refuser.failed == Failed(CloseCode.REFUSED, no)
    assert other.failed is not None and other.failed.code is CloseCode.REFUSED
    assert other.failed.error.what == "The other side refused: it is called like another"
    assert not newcomer.joined and not member.joined


def test_a_long_no_is_cut_to_what_may_travel() -> None:
    newcomer, member = sides()
    member.machine.receive_data(newcomer.turn(), 1.0)
    member.machine.refuse(RefusedError("x" * 5000))
    newcomer.feed(member.machine.data_to_send(1.0))
    assert newcomer.failed is not None and newcomer.failed.code is CloseCode.REFUSED
    assert len(newcomer.failed.error.what) < 600


# Who is not who paired, or does not keep to it


def join_frame(own: Keys = BOB, **changes: object) -> bytes:
    me = own.identity
    join = Join(
        signing_key=me.signing_key,
        noise_key=me.noise_key,
        binding=me.binding,
        name="bob",
        signature=own.sign(Context.JOIN, b"A", HASH),
    )
    return encode_frame(Frame.JOIN, encode_body(attrs.evolve(join, **changes)))


def offer_frame(of: Mesh, own: Keys = ALICE, **changes: object) -> bytes:
    me = own.identity
    offer = JoinOffer(
        mesh=of.id,
        mesh_name="home",
        signing_key=me.signing_key,
        noise_key=me.noise_key,
        binding=me.binding,
        name="bob",
        signature=own.sign(Context.JOIN, b"B", HASH, of.id),
    )
    return encode_frame(Frame.JOIN_OFFER, encode_body(attrs.evolve(offer, **changes)))


def test_frames_made_here_are_those_of_the_machines() -> None:
    newcomer, member = sides()
    assert newcomer.turn() == join_frame()
    assert member.feed(join_frame()) == offer_frame(member.mesh)


@pytest.mark.parametrize(
    "frame",
    [
        join_frame(CAROL),
        join_frame(signing_key=CAROL.identity.signing_key),
        join_frame(binding=CAROL.identity.binding),
        join_frame(signature=BOB.sign(Context.JOIN, b"A", bytes(32))),
        join_frame(signature=BOB.sign(Context.JOIN, b"B", HASH)),
        join_frame(signature=BOB.sign(Context.SESSION, b"A", HASH)),
        join_frame(name=""),
        join_frame(name="two words"),
        join_frame(name="\x1b[2J"),
    ],
)
def test_a_newcomer_that_is_not_who_paired_is_refused(frame: bytes) -> None:
    _, member = sides()
    assert member.feed(frame) == b""
    assert member.failed is not None and member.failed.code is CloseCode.PROTOCOL
    assert not member.event(Asked)


def test_ourselves_do_not_join_us() -> None:
    mesh = Mesh()
    member = Ran(admitting(mesh, peer=ALICE.identity), mesh)
    member.feed(join_frame(ALICE))
    assert member.failed is not None and member.failed.code is CloseCode.PROTOCOL


@pytest.mark.parametrize(
    "changes",
    [
        {"own": CAROL},
        {"signing_key": CAROL.identity.signing_key},
        {"mesh": bytes(32)},
        {"name": "two words"},
        {"mesh_name": "\x1b[2J"},
        {"signature": ALICE.sign(Context.JOIN, b"A", HASH)},
    ],
)
def test_a_member_that_is_not_who_paired_is_refused(changes: dict[str, object]) -> None:
    mesh = Mesh()
    newcomer = Ran(entering(), mesh)
    newcomer.turn()
    assert newcomer.feed(offer_frame(mesh, **changes)) == b""
    assert newcomer.failed is not None and newcomer.failed.code is CloseCode.PROTOCOL


def test_a_consent_to_something_else_writes_nothing() -> None:
    _, member = sides()
    member.feed(join_frame())
    for name, admitter in (("alice", ALICE), ("bob", CAROL)):
        again = countersign(BOB, member.mesh.id, admitter.identity.signing_key, name)
        later = Ran(admitting(member.mesh), member.mesh)
        later.feed(join_frame())
        later.feed(encode_frame(Frame.CONSENT, encode_body(Consent(again.countersignature))))
        assert later.failed is not None and later.failed.code is CloseCode.PROTOCOL
    assert len(member.mesh.records) == 1


def to_newcomer(*frames: bytes) -> Ran:
    """A newcomer that has consented and is fed these."""
    mesh = Mesh()
    newcomer = Ran(entering(), mesh)
    newcomer.turn()
    newcomer.feed(offer_frame(mesh))
    for frame in frames:
        newcomer.feed(frame)
    return newcomer


ADMITTED = encode_frame(Frame.ADMITTED, encode_body(Admitted([SECRET])))


def roster(*records: bytes) -> bytes:
    return encode_frame(Frame.ROSTER, encode_body(RosterBatch(list(records))))


@pytest.mark.parametrize(
    "frames",
    [
        [encode_frame(Frame.ADMITTED, encode_body(Admitted([])))],
        [ADMITTED, ADMITTED],
        [roster(b"x")],
        [encode_frame(Frame.ROSTER_END, b"")],
        [ADMITTED, roster()],
        [ADMITTED, HEADER.pack(Frame.ROSTER, FRAMES_OF_MEMBER[Frame.ROSTER] + 1)],
        [ADMITTED, HEADER.pack(Frame.ROSTER_END, 1)],
        [ADMITTED, encode_frame(Frame.ROSTER, b"\xc1")],
        [ADMITTED, *[roster(*[b""] * 50_000)] * (ROSTER_RECORDS // 50_000 + 1)],
        [encode_frame(Frame.JOIN, b"")],
    ],
)
def test_a_member_that_breaks_the_rules_is_left(frames: list[bytes]) -> None:
    newcomer = to_newcomer(*frames)
    assert newcomer.failed is not None and newcomer.failed.code is CloseCode.PROTOCOL
    assert not newcomer.event(Welcomed)


def test_a_roster_without_end_is_cut_off() -> None:
    newcomer = to_newcomer(ADMITTED)
    frame = roster(*[bytes(256 * 1024)] * 2)
    for _ in range(200):
        newcomer.feed(frame)
        if newcomer.failed:
            break
    assert newcomer.failed is not None and isinstance(newcomer.failed.error, RemoteProtocolError)


def test_nothing_may_follow_while_a_question_is_open() -> None:
    _, member = sides()
    member.machine.receive_data(join_frame() + join_frame(), 1.0)
    assert isinstance(member.machine.next_event(), Failed)


# Time, ends, and our own mistakes


@pytest.mark.parametrize("stage", range(5))
@pytest.mark.parametrize("code", [None, *CloseCode, 0x7401])
def test_a_connection_that_ends_fails_both_wherever_they_are(stage: int, code: int | None) -> None:
    newcomer, member = sides()
    data = newcomer.turn()
    for step in range(stage):
        data = (member, newcomer)[step % 2].feed(data)
    for side in (newcomer, member):
        was_over = side.joined
        side.machine.connection_lost(2.0, code)
        side.turn(2.0)
        assert (side.failed is None) == was_over
        if side.failed:
            assert side.failed.code is CloseCode.of(code, CloseCode.TIMED_OUT)
            assert side.failed.error.what


def test_the_time_runs_out() -> None:
    newcomer, member = sides()
    newcomer.turn()
    for side in (newcomer, member):
        assert side.machine.next_deadline() == JOINING_DEADLINE
        side.machine.on_deadline(JOINING_DEADLINE)
        side.turn(JOINING_DEADLINE)
        assert side.failed is not None and side.failed.code is CloseCode.TIMED_OUT


def test_an_answer_that_comes_too_late_is_no_mistake_of_ours() -> None:
    newcomer, member = sides()
    machine = member.machine
    assert isinstance(machine, Admitting)
    machine.receive_data(newcomer.turn(), 1.0)
    machine.next_event()
    machine.connection_lost(2.0)
    machine.offer("bob")
    machine.refuse(RefusedError("no"))
    assert machine.data_to_send(2.0) == b""


def test_turns_are_ours_to_keep() -> None:
    mesh = Mesh()
    member, newcomer = admitting(mesh), entering()
    for misuse in (
        lambda: member.offer("bob"),
        lambda: member.admitted(secrets_of(mesh), []),
        lambda: member.refuse(RefusedError("no")),
        newcomer.consent,
        newcomer.stored,
        lambda: entering(name="two words"),
    ):
        with pytest.raises(LocalProtocolError):
            misuse()
    member.receive_data(join_frame(), 1.0)
    for misuse in (lambda: member.offer("two words"), lambda: member.admitted(secrets_of(mesh), [])):
        with pytest.raises(LocalProtocolError):
            misuse()


FRAMES = st.builds(encode_frame, st.sampled_from(Frame), st.binary(max_size=400))
JUNK = st.lists(st.binary(max_size=200) | FRAMES, min_size=1, max_size=4).map(b"".join)


@settings(deadline=None, max_examples=150)
@given(st.booleans(), st.integers(0, 2), JUNK, st.sampled_from([None, 1, 3]))
def test_junk_never_raises_and_never_joins(is_member: bool, stage: int, junk: bytes, piece: int | None) -> None:
    newcomer, member = sides()
    data = newcomer.turn()
    for step in range(stage):
        data = (member, newcomer)[step % 2].feed(data)
    fed = member if is_member else newcomer
    before = len(member.mesh.records)
    fed.feed(junk, piece)
    assert not fed.joined
    assert len(member.mesh.records) == before
    if fed.failed:
        assert fed.machine.next_deadline() is None


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_changed_bit_of_what_is_signed_goes_through(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([join_frame(), bytes(offer_frame(Mesh()))])))
    is_join = frame[0] == Frame.JOIN
    kind = Join if is_join else JoinOffer
    place = data.draw(st.integers(HEADER.size, len(frame) - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    newcomer, member = sides(Mesh())
    newcomer.turn()
    (member if is_join else newcomer).feed(bytes(frame))
    asked = member.event(Asked) if is_join else newcomer.event(Offered)
    if asked is not None:
        # Names alone are not covered by the signature: the newcomer countersigns what it is offered.
        changed = decode_body(kind, bytes(frame)[HEADER.size :])
        honest = decode_body(kind, (join_frame() if is_join else offer_frame(Mesh()))[HEADER.size :])
        named = {"name": honest.name} | ({} if is_join else {"mesh_name": honest.mesh_name})
        assert attrs.evolve(changed, **named) == honest


@pytest.mark.parametrize("kind", FRAMES_OF_NEWCOMER)
def test_the_longest_frame_of_every_type(kind: Frame) -> None:
    _, member = sides()
    member.feed(encode_frame(Frame(kind), bytes(FRAMES_OF_NEWCOMER[kind])))
    assert member.failed is not None
