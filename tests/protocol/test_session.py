"""Two session machines back to back, strangers of every kind at the door, and the vectors of tests/vectors/session.json."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.model.identity import Context, Keys, node_id
from meshd.protocol.binding import Binding
from meshd.protocol.handshake import NoiseHandshake, Role
from meshd.protocol.session import PURPOSE, SESSION_DEADLINE, AnsweredSession
from meshd.protocol.session_events import Claimed, Confirmed, Failed, Hinted, Tagged, session_hint, session_tag
from meshd.wire.codec import decode_body, encode_body
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import HEADER, encode_frame
from meshd.wire.session import (
    FRAMES_OF_A,
    FRAMES_OF_B,
    INTRODUCTION_LIMIT,
    TAGS,
    ConfirmA,
    ConfirmB,
    HelloA,
    HelloB,
)
from tests.protocol.back_to_back import ALPN, DIGEST, fixed_bytes, fixed_entropy
from tests.protocol.session_kit import (
    ALICE,
    BOB,
    CAROL,
    MESH,
    SECRETS,
    Ran,
    alice,
    answered,
    binding,
    bob,
    dialled,
    keys,
    other_certificate,
    talk,
)
from tests.vectors.make_session import FILE, build

# Vectors


def test_the_vectors_are_what_the_machines_make() -> None:
    assert json.loads(json.dumps(build())) == json.loads(FILE.read_text())


def test_the_page_written_out_a_second_time() -> None:
    """Without the machines: what another implementation would do, for side B."""
    vectors = json.loads(FILE.read_text())["session"]

    def value(name: str) -> bytes:
        return bytes.fromhex(vectors[name])

    hello_a, hello_b = value("hello_a"), value("hello_b")
    tag = hmac.new(value("secret"), b"session" + value("nonce_a"), hashlib.sha256).digest()[:16]
    assert tag == value("tag") and tag in hello_a
    own = Keys(value("signing_private_b"), value("noise_private_b"))
    nonces = value("nonce_a") + value("nonce_b")
    hint = hmac.new(value("secret"), b"node" + nonces + node_id(own.identity.signing_key), hashlib.sha256).digest()[:16]
    assert hint == value("hint") and hint in hello_b
    fields = (b"session", b"tether/1", b"tether/1", b"AB", value("certificate_digest"), hello_a, hello_b)
    prologue = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert prologue == value("prologue")
    noise = NoiseHandshake(
        "IK",
        Role.B,
        static_private=value("noise_private_b"),
        prologue=prologue,
        ephemeral_private=value("ephemeral_private_b"),
    )
    assert noise.read(value("noise_1")) == b""
    assert noise.write() == value("noise_2")
    assert noise.handshake_hash == value("handshake_hash")
    confirm = decode_body(ConfirmA, noise.decrypt(value("confirm_a")))
    assert confirm.mesh == value("mesh")
    assert confirm.introduction == [bytes.fromhex(each) for each in vectors["introduction"]]
    signature = own.sign(Context.SESSION, b"B", noise.handshake_hash, value("mesh"))
    assert noise.encrypt(encode_body(ConfirmB(signature))) == value("confirm_b")


# Two honest sides


@pytest.mark.parametrize("piece", [None, 1, 7])
def test_members_confirm_each_other(piece: int | None) -> None:
    a, b = alice(), bob()
    talk(a, b, piece=piece)
    assert [type(event) for event in a.events] == [Hinted, Confirmed]
    assert [type(event) for event in b.events] == [Tagged, Claimed, Confirmed]
    assert a.confirmed is not None and b.confirmed is not None
    assert (a.confirmed.peer, b.confirmed.peer) == (BOB.identity, ALICE.identity)
    assert a.confirmed.mesh == b.confirmed.mesh == MESH
    assert a.confirmed.handshake_hash == b.confirmed.handshake_hash
    assert [kind for kind, _ in a.frames] == [Frame.SESSION_HELLO, Frame.NOISE, Frame.CONFIRM]
    assert [kind for kind, _ in b.frames] == [Frame.SESSION_HELLO, Frame.NOISE, Frame.CONFIRM]
    for side in (a, b):
        assert side.machine.next_deadline() is None
        side.machine.on_deadline(1e9)
        assert side.machine.next_event() is None


def test_b_exists_for_nobody_before_a_has_confirmed() -> None:
    a, b = alice(), bob()
    noise_1 = a.feed(b.feed(a.turn()))
    assert noise_1[0] == Frame.NOISE
    noise_2 = b.feed(noise_1)
    assert b.claimed is None and b.confirmed is None
    confirm = a.feed(noise_2)
    assert a.confirmed is None
    b.feed(confirm)
    assert b.claimed is not None


def test_a_recorded_first_message_gets_no_further() -> None:
    """Message 1 of another connection, replayed with the same hello: another nonce of B, so it does not verify."""
    a, b = alice(), bob()
    hello = a.turn()
    noise_1 = a.feed(b.feed(hello))
    later = bob(answered(name="another run"))
    later.feed(hello)
    assert later.feed(noise_1) == b""
    assert later.claimed is None


def test_an_echo_of_everything_does_not_confirm() -> None:
    a, b = alice(), bob()
    hello = a.turn()
    noise_1 = a.feed(b.feed(hello))
    noise_2 = b.feed(noise_1)
    confirm_a = a.feed(noise_2)
    again = alice()
    again.turn()
    for frame in (b.sent[: -len(noise_2)], noise_2, confirm_a):
        again.feed(frame)
    assert again.code is CloseCode.NOT_A_MEMBER


def test_nothing_of_who_they_are_is_to_be_seen() -> None:
    record = b"an encoded admission " * 20
    a, b = alice(dialled(introduction=[record])), bob()
    talk(a, b)
    assert b.claimed is not None and b.claimed.introduction == (record,)
    seen = a.sent + b.sent
    for own in (ALICE, BOB):
        for secret in (own.identity.signing_key, own.identity.noise_key, own.identity.node, MESH, SECRETS[0], record):
            assert secret not in seen


# Tags and hints


def test_a_hello_has_always_as_many_tags() -> None:
    for count in range(5):
        a = dialled(secrets=SECRETS[:count])
        body = a.data_to_send(0.0)[HEADER.size :]
        hello = decode_body(HelloA, body)
        assert len(set(hello.tags)) == len(hello.tags) == TAGS
        true = [session_tag(secret, hello.nonce) for secret in SECRETS[: min(count, TAGS)]]
        assert hello.tags[: len(true)] == true
        assert not set(hello.tags[len(true) :]) & {session_tag(secret, hello.nonce) for secret in SECRETS}


@pytest.mark.parametrize("known", range(TAGS))
def test_a_member_that_missed_changes_of_the_secret_is_found(known: int) -> None:
    a, b = alice(dialled(secrets=SECRETS)), bob(meshes=[(MESH, SECRETS[known])])
    talk(a, b)
    assert a.confirmed is not None and b.confirmed is not None


def test_who_missed_them_finds_the_others_however_many() -> None:
    a, b = alice(dialled(secrets=SECRETS[-1:])), bob(meshes=[(MESH, secret) for secret in SECRETS])
    talk(a, b)
    assert a.confirmed is not None and b.confirmed is not None


def test_of_several_meshes_the_one_that_is_meant() -> None:
    other = fixed_bytes("other mesh")
    meshes = [(other, fixed_bytes("other secret")), (MESH, SECRETS[0])]
    a, b = alice(), bob(meshes=meshes)
    talk(a, b)
    assert b.confirmed is not None and b.confirmed.mesh == MESH


def test_a_hint_names_one_member_only() -> None:
    crowd = [keys(f"member {number}") for number in range(20)]
    a, b = alice(knows=[*crowd, BOB]), bob()
    talk(a, b)
    hinted = a.events[0]
    assert isinstance(hinted, Hinted)
    assert [each for each in (*crowd, BOB, ALICE) if hinted.is_of(each.identity.node)] == [BOB]


def test_secrets_stay_out_of_what_is_printed() -> None:
    a, b = alice(), bob()
    talk(a, b)
    assert SECRETS[0].hex() not in repr(a.events) and repr(SECRETS[0]) not in repr(a.events)


# Who is refused, and that nobody can tell why


def stranger_without_secret() -> tuple[Ran, Ran]:
    return alice(dialled(secrets=[fixed_bytes("guessed")])), bob()


def unknown() -> tuple[Ran, Ran]:
    return alice(dialled(own=CAROL)), bob()


def revoked() -> tuple[Ran, Ran]:
    return alice(), bob(knows=[CAROL])


def man_in_the_middle() -> tuple[Ran, Ran]:
    return alice(dialled(digest=other_certificate())), bob()


def of_another_mesh() -> tuple[Ran, Ran]:
    """Holds a secret of ours and names another mesh inside."""
    return alice(dialled(mesh=fixed_bytes("other mesh"))), bob()


REFUSED = (stranger_without_secret, unknown, revoked, man_in_the_middle, of_another_mesh)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_who_is_refused_hears_one_code_at_one_time(kind) -> None:
    a, b = kind()
    to_b = a.turn()
    # Without who dials closing: that it can do at any time, and here it waits.
    while to_b:
        to_b = a.feed(b.feed(to_b))
    assert b.confirmed is None and b.failed is None
    assert b.machine.next_deadline() == SESSION_DEADLINE
    b.machine.on_deadline(SESSION_DEADLINE - 0.001)
    assert b.turn(SESSION_DEADLINE - 0.001) == b"" and b.failed is None
    b.machine.on_deadline(SESSION_DEADLINE)
    assert b.turn(SESSION_DEADLINE) == b""
    assert b.failed is not None
    assert (b.code, b.failed.error.what) == (CloseCode.NOT_A_MEMBER, "There was no session after 9.5 seconds.")


JUNK = {
    "unknown frame": HEADER.pack(0x7F, 0),
    "frame of a pairing": encode_frame(Frame.PAKE, b"x"),
    "too long": HEADER.pack(Frame.NOISE, FRAMES_OF_A[Frame.NOISE] + 1),
    "no MessagePack": encode_frame(Frame.SESSION_HELLO, b"\xc1"),
    "one tag": encode_frame(
        Frame.SESSION_HELLO, encode_body({"versions": [1], "nonce": bytes(32), "tags": [bytes(16)]})
    ),
    "noise, first or of low order": encode_frame(Frame.NOISE, bytes(96)),
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_who_breaks_the_rules_is_refused_like_a_stranger(name: str, stage: int) -> None:
    a, b = alice(), bob()
    frames = [a.turn()]
    frames.append(a.feed(b.feed(frames[0])))
    later = bob()
    for frame in frames[:stage]:
        later.feed(frame)
    assert later.feed(JUNK[name]) == b""
    assert later.failed is None and later.confirmed is None
    assert later.feed(a.sent) == b""
    later.machine.on_deadline(SESSION_DEADLINE)
    later.turn(SESSION_DEADLINE)
    assert later.code is CloseCode.NOT_A_MEMBER


def test_a_matching_hint_looks_like_any_other() -> None:
    """B's answer has one size and form, whether it knows the mesh or not."""
    known, unknown_ = bob(), bob(meshes=[])
    hello = dialled().data_to_send(0.0)
    one, other = known.feed(hello), unknown_.feed(hello)
    assert len(one) == len(other) and one[: HEADER.size] == other[: HEADER.size]
    nonces = [decode_body(HelloB, answer[HEADER.size :]).nonce for answer in (one, other)]
    assert nonces[0] == nonces[1]


def test_the_dialler_hangs_up_at_once_on_whom_it_does_not_know() -> None:
    for meshes, knows in (([], [BOB]), ([(MESH, SECRETS[0])], [CAROL])):
        a, b = alice(knows=knows), bob(meshes=meshes)
        a.feed(b.feed(a.turn()))
        assert a.code is CloseCode.NOT_A_MEMBER
        assert [kind for kind, _ in a.frames] == [Frame.SESSION_HELLO]


def test_the_dialler_finds_a_man_in_the_middle_out() -> None:
    a, b = alice(dialled(digest=other_certificate())), bob()
    noise_1 = a.feed(b.feed(a.turn()))
    assert b.feed(noise_1) == b""
    # Somebody who answers for B without its key:
    a.feed(encode_frame(Frame.NOISE, bytes(48)))
    assert a.code is CloseCode.NOT_A_MEMBER and a.confirmed is None


def test_who_reaches_itself_notices() -> None:
    a = alice(knows=[])
    b = bob(answered(own=ALICE))
    a.feed(b.feed(a.turn()))
    assert a.code is CloseCode.SELF


def test_a_hello_that_is_thrown_back_is_our_own() -> None:
    a = alice()
    hello = decode_body(HelloA, a.turn()[HEADER.size :])
    reflected = HelloB(versions=[1], nonce=hello.nonce, hint=bytes(16))
    a.feed(encode_frame(Frame.SESSION_HELLO, encode_body(reflected)))
    assert a.code is CloseCode.SELF


def test_no_common_version_is_said_at_once() -> None:
    a, b = alice(), bob()
    a.turn()
    a.feed(encode_frame(Frame.SESSION_HELLO, encode_body(HelloB(versions=[2], nonce=bytes(32), hint=bytes(16)))))
    newer = HelloA(versions=[2, 3], nonce=bytes(32), tags=[bytes(16)] * TAGS)
    assert b.feed(encode_frame(Frame.SESSION_HELLO, encode_body(newer))) == b""
    assert a.code is b.code is CloseCode.VERSION


# What holders of some keys can do


def confirm_of(noise: NoiseHandshake, confirm: object) -> bytes:
    return encode_frame(Frame.CONFIRM, noise.encrypt(encode_body(confirm)))


def by_hand(own: Keys = ALICE) -> tuple[NoiseHandshake, Ran, bytes]:
    """Side A without its machine, up to where its CONFIRM is due."""
    b = bob()
    nonce = fixed_bytes("nonce by hand")
    hello_a = encode_body(HelloA(versions=[1], nonce=nonce, tags=[session_tag(SECRETS[0], nonce)] * TAGS))
    hello_b = b.feed(encode_frame(Frame.SESSION_HELLO, hello_a))[HEADER.size :]
    noise = NoiseHandshake(
        "IK",
        Role.A,
        static_private=own.noise_private,
        prologue=Binding(certificate_digest=DIGEST, alpn=ALPN, purpose=PURPOSE).fields("AB", hello_a, hello_b),
        ephemeral_private=fixed_bytes("ephemeral by hand"),
        remote_static=BOB.identity.noise_key,
    )
    noise.read(b.feed(encode_frame(Frame.NOISE, noise.write()))[HEADER.size :])
    return noise, b, noise.handshake_hash


def signed(own: Keys, role: bytes, handshake_hash: bytes, mesh: bytes = MESH, *, shown: Keys | None = None) -> ConfirmA:
    return ConfirmA(
        mesh=mesh,
        signing_key=(shown or own).identity.signing_key,
        signature=own.sign(Context.SESSION, role, handshake_hash, mesh),
        introduction=[],
    )


def test_by_hand_is_like_the_machine() -> None:
    noise, b, handshake_hash = by_hand()
    b.feed(confirm_of(noise, signed(ALICE, b"A", handshake_hash)))
    assert b.confirmed is not None and b.confirmed.peer == ALICE.identity


def test_a_confirm_that_is_not_right_is_refused() -> None:
    wrong = {
        "another's signing key": lambda h: signed(ALICE, b"A", h, shown=CAROL),
        "B's signature": lambda h: signed(ALICE, b"B", h),
        "another handshake": lambda h: signed(ALICE, b"A", bytes(32)),
        "another mesh": lambda h: signed(ALICE, b"A", h, fixed_bytes("other mesh")),
        "its own keys with our member's Noise key": lambda h: signed(CAROL, b"A", h),
    }
    for name, make in wrong.items():
        noise, b, handshake_hash = by_hand()
        assert b.feed(confirm_of(noise, make(handshake_hash))) == b"", name
        assert b.confirmed is None, name
        assert b.machine.next_deadline() == SESSION_DEADLINE, name


def test_something_behind_the_confirm_is_refused() -> None:
    noise, b, handshake_hash = by_hand()
    b.feed(confirm_of(noise, signed(ALICE, b"A", handshake_hash)) + b"\0")
    assert b.claimed is None and b.confirmed is None


def test_a_handshake_message_with_a_payload_is_refused() -> None:
    b = bob()
    nonce = fixed_bytes("nonce by hand")
    hello_a = encode_body(HelloA(versions=[1], nonce=nonce, tags=[session_tag(SECRETS[0], nonce)] * TAGS))
    hello_b = b.feed(encode_frame(Frame.SESSION_HELLO, hello_a))[HEADER.size :]
    noise = NoiseHandshake(
        "IK",
        Role.A,
        static_private=ALICE.noise_private,
        prologue=binding().fields("AB", hello_a, hello_b),
        ephemeral_private=fixed_bytes("ephemeral by hand"),
        remote_static=BOB.identity.noise_key,
    )
    message = encode_frame(Frame.NOISE, noise.write(b"hello"))
    assert b.feed(message) == b"" and b.failed is None


def test_the_noise_key_of_b_alone_does_not_answer_for_b() -> None:
    """Whoever stole a Noise key and not the signing key is found out by A."""
    thief = Keys(fixed_bytes("the thief's own"), BOB.noise_private)
    b = bob(answered(own=thief))
    a = alice()
    hello = a.turn()
    nonce = decode_body(HelloA, hello[HEADER.size :]).nonce
    answer = b.feed(hello)
    theirs = decode_body(HelloB, answer[HEADER.size :])
    # It lies about its id, which it knows.
    lie = HelloB(
        versions=[1], nonce=theirs.nonce, hint=session_hint(SECRETS[0], nonce, theirs.nonce, BOB.identity.node)
    )
    b.machine._hello = encode_body(lie)
    to_b = a.feed(encode_frame(Frame.SESSION_HELLO, encode_body(lie)))
    a.feed(b.feed(a.feed(b.feed(to_b))))
    assert b.confirmed is not None
    assert a.confirmed is None and a.code is CloseCode.NOT_A_MEMBER


# Ends, and our own mistakes


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("code", [None, *CloseCode, 0x7401])
def test_a_connection_that_ends_fails_both_wherever_they_are(stage: int, code: int | None) -> None:
    a, b = alice(), bob()
    data = a.turn()
    for step in range(stage):
        data = (b, a)[step % 2].feed(data)
    for side in (a, b):
        side.machine.connection_lost(2.0, code)
        side.turn(2.0)
        assert side.failed is not None
        assert side.code is CloseCode.of(code, CloseCode.NOT_A_MEMBER)
        assert side.machine.data_to_send(2.0) == b"" and side.machine.next_deadline() is None


def test_the_time_runs_out_for_both() -> None:
    a, b = alice(dialled(now=100.0)), bob(answered(now=100.0))
    b.feed(a.turn(100.0), now=100.0)
    for side in (a, b):
        side.machine.receive_data(b"", 100.0 + SESSION_DEADLINE)
        side.turn(100.0 + SESSION_DEADLINE)
        assert side.code is CloseCode.NOT_A_MEMBER


def test_an_answer_that_comes_too_late_is_no_mistake_of_ours() -> None:
    a, b = dialled(), answered()
    b.receive_data(a.data_to_send(0.0), 1.0)
    assert isinstance(b.next_event(), Tagged)
    b.on_deadline(SESSION_DEADLINE)
    b.choose(MESH, SECRETS[0])
    b.choose_none()
    assert isinstance(b.next_event(), Failed)
    assert b.data_to_send(SESSION_DEADLINE) == b""


def test_turns_are_ours_to_keep() -> None:
    a, b = dialled(), answered()
    for misuse in (
        lambda: a.call(BOB.identity),
        lambda: a.give_up(CloseCode.DONE, ""),
        lambda: b.choose(MESH, SECRETS[0]),
        b.choose_none,
        lambda: b.accept(ALICE.identity),
        b.refuse,
    ):
        with pytest.raises(LocalProtocolError):
            misuse()
    wrong = Binding(certificate_digest=DIGEST, alpn=ALPN)
    with pytest.raises(LocalProtocolError):
        AnsweredSession(keys=BOB, binding=wrong, entropy=fixed_entropy("x"), now=0.0)


def test_nobody_else_than_who_claimed_can_be_accepted() -> None:
    noise, b, handshake_hash = by_hand()
    b.members = []
    machine = b.machine
    assert isinstance(machine, AnsweredSession)
    machine.receive_data(confirm_of(noise, signed(ALICE, b"A", handshake_hash)), 1.0)
    assert isinstance(machine.next_event(), Claimed)
    with pytest.raises(LocalProtocolError):
        machine.accept(CAROL.identity)
    machine.accept(ALICE.identity)


# Introductions


def test_of_a_long_introduction_the_last_that_fit_are_sent() -> None:
    records = [bytes([number]) * 1000 for number in range(12)]
    a, b = alice(dialled(introduction=records)), bob()
    talk(a, b)
    assert b.claimed is not None and b.claimed.introduction == tuple(records[-8:])

    long = [bytes([number]) * 5000 for number in range(4)]
    a, b = alice(dialled(introduction=long)), bob()
    talk(a, b)
    assert b.claimed is not None and b.claimed.introduction == tuple(long[-2:])

    a, b = alice(dialled(introduction=[bytes(INTRODUCTION_LIMIT + 1)])), bob()
    talk(a, b)
    assert b.claimed is not None and b.claimed.introduction == ()


def test_a_whole_handshake_stays_below_what_a_stranger_may_send() -> None:
    a, b = alice(dialled(introduction=[bytes(INTRODUCTION_LIMIT // 8 - 5)] * 8)), bob()
    talk(a, b)
    assert b.claimed is not None and len(b.claimed.introduction) == 8
    assert max(len(a.sent), len(b.sent)) < 16 * 1024


# Whatever comes


def from_peer(role: Role) -> list[bytes]:
    a, b = alice(), bob()
    talk(a, b)
    return [encode_frame(*frame) for frame in (b if role is Role.A else a).frames]


FROM_PEER = {role: from_peer(role) for role in Role}
FRAMES = st.builds(encode_frame, st.sampled_from(Frame), st.binary(max_size=600))
JUNK_BYTES = st.lists(st.binary(max_size=300) | FRAMES, min_size=1, max_size=4).map(b"".join)


def at_stage(role: Role, stage: int) -> Ran:
    ran = alice() if role is Role.A else bob()
    ran.turn()
    for frame in FROM_PEER[role][:stage]:
        ran.feed(frame)
    return ran


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(Role), st.integers(0, 2), JUNK_BYTES, st.sampled_from([None, 1, 3]))
def test_junk_at_any_stage_is_no_session(role: Role, stage: int, junk: bytes, piece: int | None) -> None:
    ran = at_stage(role, stage)
    ran.feed(junk, piece)
    assert ran.confirmed is None
    ran.machine.on_deadline(SESSION_DEADLINE)
    ran.turn(SESSION_DEADLINE)
    assert ran.failed is not None
    if role is Role.B:
        assert ran.code in (CloseCode.NOT_A_MEMBER, CloseCode.VERSION)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(Role), st.data())
def test_no_changed_bit_goes_through(role: Role, data: st.DataObject) -> None:
    frames = FROM_PEER[role]
    stage = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(frames[stage]) - 1))
    changed = bytearray(frames[stage])
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    ran = at_stage(role, stage)
    ran.feed(bytes(changed))
    for frame in frames[stage + 1 :]:
        ran.feed(frame)
    assert ran.confirmed is None


@pytest.mark.parametrize("role", Role)
def test_the_longest_frame_of_every_type_at_every_stage(role: Role) -> None:
    limits = FRAMES_OF_B if role is Role.A else FRAMES_OF_A
    for stage in range(3):
        for kind, limit in limits.items():
            ran = at_stage(role, stage)
            ran.feed(encode_frame(Frame(kind), bytes(limit)))
            assert ran.confirmed is None
