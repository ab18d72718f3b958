"""Two machines back to back, somebody between them, and the vectors of tests/vectors/pairing.json."""

import hashlib
import json
import struct

import pytest
from noise.connection import Keypair, NoiseConnection
from spake2 import SPAKE2_A, SPAKE2_B

from meshd.errors import LocalProtocolError, RemoteProtocolError, TetherError, WrongPassphraseError
from meshd.protocol.admission import TRIES, Window
from meshd.protocol.closing import error_for_close, wrong_words
from meshd.protocol.handshake import NoiseHandshake, Role
from meshd.protocol.pairing import (
    PAIRING_DEADLINE,
    TRANSITIONS,
    Failed,
    Own,
    Paired,
    PakeDue,
    PakeResult,
    State,
    TryTaken,
    is_label,
)
from meshd.wire.constants import CloseCode, Frame
from meshd.wire.framing import encode_frame
from tests.protocol.back_to_back import DIGEST, SECRET, Ran, fixed_bytes, fixed_entropy, pairing, run
from tests.vectors.make_pairing import FILE, build

VECTORS = json.loads(FILE.read_text())
SESSION = VECTORS["session"]


def value(name: str) -> bytes:
    return bytes.fromhex(SESSION[name])


def until_noise_1(a_window: Window, b_window: Window, **options) -> tuple[Ran, Ran, bytes]:
    """Both sides up to A's first NOISE, which has been sent and not delivered."""
    a, b = Ran(pairing(Role.A, window=a_window, **options)), Ran(pairing(Role.B, window=b_window))
    pake_a = a.feed(b.feed(a.turn()))
    noise_1 = a.feed(b.feed(pake_a))
    assert noise_1[0] == Frame.NOISE
    return a, b, noise_1


# Vectors


def test_the_vectors_are_what_the_machines_make() -> None:
    assert json.loads(json.dumps(build())) == VECTORS


def test_the_session_from_the_libraries_alone() -> None:
    """The page, written out a second time without the machines: what another implementation would do."""

    def bound(role: bytes) -> bytes:
        fields = (
            b"pair",
            b"tether/1",
            b"tether/1",
            role,
            value("certificate_digest"),
            value("hello_a"),
            value("hello_b"),
        )
        return b"".join(struct.pack(">I", len(field)) + field for field in fields)

    assert [bound(role) for role in (b"A", b"B", b"AB")] == [value(n) for n in ("identity_a", "identity_b", "prologue")]
    keys = []
    for side, own, other in ((SPAKE2_A, "a", "b"), (SPAKE2_B, "b", "a")):
        entropy = value(f"scalar_entropy_{own}")
        spake = side(value("secret"), idA=bound(b"A"), idB=bound(b"B"), entropy_f=lambda size, entropy=entropy: entropy)
        assert spake.start() == value(f"pake_{own}")
        keys.append(spake.finish(value(f"pake_{other}")))
    assert keys == [value("spake2_key")] * 2

    b = NoiseConnection.from_name(b"Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s")
    b.set_as_responder()
    b.set_prologue(bound(b"AB"))
    b.set_psks(psk=keys[0])
    b.set_keypair_from_private_bytes(Keypair.STATIC, value("static_private_b"))
    b.set_keypair_from_private_bytes(Keypair.EPHEMERAL, value("ephemeral_private_b"))
    with pytest.warns(UserWarning, match="ephemeral"):
        b.start_handshake()
    assert b.read_message(value("noise_1")) == b""
    assert b.write_message() == value("noise_2")
    assert b.read_message(value("noise_3")) == b""
    assert b.get_handshake_hash() == value("handshake_hash")
    assert b.encrypt(value("profile_b")) == value("confirm_b")
    assert b.decrypt(value("confirm_a")) == value("profile_a")


@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("vector", VECTORS["failures"], ids=lambda v: f"{v['role']} {v['name']}")
def test_failures(vector, piece) -> None:
    options = {name: bytes.fromhex(vector[name]) for name in ("secret",) if name in vector}
    if "certificate_digest" in vector:
        options["digest"] = bytes.fromhex(vector["certificate_digest"])
    if "alpn" in vector:
        options["alpn"] = vector["alpn"]
    before = {"spent": 0, "set_aside": 0} | vector.get("tries", {})
    window = Window()
    for _ in range(before["spent"]):
        window.take().failed()
    for _ in range(before["set_aside"]):
        window.take()
    ran = Ran(pairing(Role(vector["role"]), window=window, **options))
    ran.turn()
    for frame in vector["fed"]:
        assert ran.failed is None
        ran.feed(bytes.fromhex(frame), piece)
    assert ran.failed is not None
    assert ran.failed.code is CloseCode[vector["code"]]
    assert ran.failed.spent is vector["spent"]
    assert (window.failed, window.open_tries) == (before["spent"] + vector["spent"], before["set_aside"])
    assert isinstance(ran.failed.error, TetherError)
    if ran.code is CloseCode.WRONG_WORDS:
        assert str(ran.failed.error) == str(wrong_words())
        assert isinstance(ran.failed.error, WrongPassphraseError)
    if ran.code is CloseCode.PROTOCOL:
        assert isinstance(ran.failed.error, RemoteProtocolError)
    assert ran.machine.data_to_send(2.0) == b""
    assert ran.machine.next_deadline() is None


# Two honest sides


@pytest.mark.parametrize("piece", [None, 1, 7])
def test_the_same_words_pair(piece) -> None:
    windows = Window(), Window()
    a, b = run(pairing(Role.A, window=windows[0]), pairing(Role.B, window=windows[1]), piece=piece)
    assert a.events == [PakeDue(), PakeDue(), TryTaken(), a.paired]
    assert b.events == [PakeDue(), TryTaken(), b.paired]
    assert a.paired.peer.label == "machine B" and b.paired.peer.label == "machine A"
    assert a.paired.handshake_hash == b.paired.handshake_hash == value("handshake_hash")
    assert a.paired.peer_static != b.paired.peer_static
    assert [kind for kind, _ in a.frames] == [Frame.HELLO, Frame.PAKE, Frame.NOISE, Frame.NOISE, Frame.CONFIRM]
    assert [kind for kind, _ in b.frames] == [Frame.HELLO, Frame.PAKE, Frame.NOISE, Frame.CONFIRM]
    for window in windows:
        assert (window.failed, window.open_tries, window.remaining) == (0, 0, TRIES)
    assert a.machine.next_deadline() is b.machine.next_deadline() is None


def test_b_is_paired_only_when_it_has_read_a_confirm() -> None:
    a, b, noise_1 = until_noise_1(Window(), Window())
    confirm_b = b.feed(a.feed(b.feed(noise_1)))
    confirm_a = a.feed(confirm_b)
    assert a.paired is not None
    assert confirm_a[0] == Frame.CONFIRM
    assert b.paired is None
    assert b.machine.next_deadline() == PAIRING_DEADLINE
    b.feed(confirm_a)
    assert b.paired is not None


def test_nothing_of_a_profile_is_to_be_seen() -> None:
    a, b = run(pairing(Role.A, label="alice's laptop"), pairing(Role.B, label="bob's server"))
    for secret in (b"alice", b"bob", SECRET, b"crystal", b"sends"):
        assert secret not in a.sent + b.sent


# Wrong words, and somebody in between


def test_wrong_words_fail_alike_and_spend_a_try_on_both_sides() -> None:
    windows = Window(), Window()
    a, b = run(pairing(Role.A, window=windows[0]), pairing(Role.B, window=windows[1], secret=b"zoo-zebra-zero"))
    for side in (a, b):
        assert side.failed == Failed(CloseCode.WRONG_WORDS, side.failed.error, spent=True)
        assert str(side.failed.error) == str(wrong_words())
        assert side.paired is None
    assert [window.failed for window in windows] == [1, 1]


def test_somebody_who_ends_tls_in_the_middle_is_noticed_by_both() -> None:
    """The words are right; the certificates that the two see are not one."""
    windows = Window(), Window()
    other = hashlib.sha256(b"of the one in the middle").digest()
    a, b = run(pairing(Role.A, window=windows[0], digest=other), pairing(Role.B, window=windows[1]))
    assert a.code is b.code is CloseCode.WRONG_WORDS
    assert a.paired is b.paired is None
    assert [window.failed for window in windows] == [1, 1]


def test_another_alpn_does_not_pair() -> None:
    a, b = run(pairing(Role.A), pairing(Role.B, alpn="tether/2"))
    assert a.code is b.code is CloseCode.WRONG_WORDS


def test_a_recorded_session_is_worth_nothing_to_a_fresh_listener() -> None:
    recorded, _ = run(pairing(Role.A), pairing(Role.B))
    window = Window()
    fresh = Ran(pairing(Role.B, name="fresh B", window=window))
    for frame in recorded.frames:
        fresh.feed(encode_frame(*frame))
    assert fresh.code is CloseCode.WRONG_WORDS
    assert fresh.failed.spent
    assert fresh.paired is None
    assert window.failed == 1
    assert [kind for kind, _ in fresh.frames] == [Frame.HELLO, Frame.PAKE]


def test_one_node_wired_to_itself_does_not_pair() -> None:
    """Its A and its B share a static key; nonces differ, so only the key tells."""
    windows = Window(), Window()
    key = fixed_bytes("the node's one key")
    a, b = run(pairing(Role.A, static=key, window=windows[0]), pairing(Role.B, static=key, window=windows[1]))
    assert a.code is b.code is CloseCode.SELF
    assert a.paired is b.paired is None


def test_two_pairings_of_one_role_do_not_pair() -> None:
    a, other = run(pairing(Role.A), pairing(Role.A, name="other A"))
    assert a.paired is other.paired is None
    assert a.failed is not None and not a.failed.spent


# Tries


def test_twenty_guessers_at_once_get_three_verifications() -> None:
    window = Window()
    listeners = [Ran(pairing(Role.B, window=window, name=f"B {n}")) for n in range(20)]
    guessers = [Ran(pairing(Role.A, secret=b"guess %d" % n, name=f"A {n}")) for n in range(20)]
    messages = [guesser.turn() for guesser in guessers]
    for _ in range(3):  # all at once: everybody makes one step before anybody makes the next
        answers = [listener.feed(message) for listener, message in zip(listeners, messages, strict=True)]
        for listener, guesser in zip(listeners, guessers, strict=True):
            if listener.failed:
                guesser.machine.connection_lost(1.0, listener.code)
                guesser.turn()
        messages = [guesser.feed(answer) for guesser, answer in zip(guessers, answers, strict=True)]
    assert sum(listener.tried for listener in listeners) == TRIES
    assert window.closed
    codes = [listener.code for listener in listeners]
    assert codes.count(CloseCode.WRONG_WORDS) == TRIES
    assert codes.count(CloseCode.BUSY) == 20 - TRIES
    assert not any(guesser.failed.spent for guesser in guessers if guesser.code is CloseCode.BUSY)
    # Who comes later, even with the right words, finds the window closed and has spent nothing.
    late_window = Window()
    late, listener = run(pairing(Role.A, window=late_window), pairing(Role.B, window=window))
    assert late.code is listener.code is CloseCode.WINDOW_CLOSED
    assert not late.failed.spent and late_window.remaining == TRIES


def test_no_arithmetic_for_who_finds_no_try() -> None:
    window = Window()
    for _ in range(TRIES):
        window.take()
    _, b = run(pairing(Role.A), pairing(Role.B, window=window))
    assert b.code is CloseCode.BUSY
    assert b.events == [b.failed]


def test_silence_after_noise_1_spends_the_try_of_a() -> None:
    a_window, b_window = Window(), Window()
    a, b, _ = until_noise_1(a_window, b_window)
    assert a.machine.next_deadline() == PAIRING_DEADLINE
    for side in (a, b):
        side.machine.on_deadline(PAIRING_DEADLINE - 0.001)
        side.turn()
        assert side.failed is None
        side.machine.on_deadline(PAIRING_DEADLINE)
        side.turn(PAIRING_DEADLINE)
        assert side.code is CloseCode.TIMED_OUT
    # B has verified nothing: its try goes back.
    assert (a.failed.spent, b.failed.spent) == (True, False)
    assert (a_window.failed, b_window.failed, b_window.open_tries) == (1, 0, 0)


@pytest.mark.parametrize("code", [*CloseCode, None, 0x77])
def test_whatever_the_peer_says_after_noise_1_the_try_of_a_is_spent(code) -> None:
    """A listener who guesses could call each wrong guess "busy"."""
    window = Window()
    a, _, _ = until_noise_1(window, Window())
    a.machine.connection_lost(1.0, code)
    a.turn()
    assert a.failed.spent
    assert window.failed == 1
    assert a.code is (CloseCode.TIMED_OUT if code in (None, 0x77) else code)


def test_abort_before_noise_1_spends_none() -> None:
    window = Window()
    a, b = Ran(pairing(Role.A, window=window)), Ran(pairing(Role.B))
    a.feed(b.feed(a.turn()))
    assert window.open_tries == 1
    a.machine.abort(1.0)
    a.turn()
    assert a.failed == Failed(CloseCode.INTERRUPTED, a.failed.error, spent=False)
    assert (window.failed, window.open_tries) == (0, 0)


def test_abort_after_noise_1_spends_one_on_both_sides() -> None:
    a_window, b_window = Window(), Window()
    a, b, noise_1 = until_noise_1(a_window, b_window)
    b.feed(noise_1)
    for side in (a, b):
        side.machine.abort(1.0, CloseCode.TAKEN)
        side.turn()
        assert side.failed.spent
        assert side.code is CloseCode.TAKEN
    assert a_window.failed == b_window.failed == 1


def test_a_keeps_to_its_own_three() -> None:
    window = Window()
    codes = []
    for number in range(TRIES + 1):
        a, _ = run(pairing(Role.A, window=window, name=f"A {number}"), pairing(Role.B, secret=b"something else"))
        codes.append(a.code)
    assert codes == [CloseCode.WRONG_WORDS] * TRIES + [CloseCode.WINDOW_CLOSED]
    assert [kind for kind, _ in a.frames] == [Frame.HELLO]


@pytest.mark.parametrize("talker", Role)
def test_a_payload_inside_the_handshake_is_refused_and_costs_a_try(talker, monkeypatch) -> None:
    """The peer holds the words, and still may not say anything before CONFIRM."""
    write = NoiseHandshake.write

    def talkative(self: NoiseHandshake) -> bytes:
        return write(self, b"hello" if self is sides[talker]._noise else b"")

    monkeypatch.setattr(NoiseHandshake, "write", talkative)
    windows = {role: Window() for role in Role}
    sides = {role: pairing(role, window=windows[role]) for role in Role}
    ran = dict(zip(Role, run(sides[Role.A], sides[Role.B]), strict=True))
    listener = Role.B if talker is Role.A else Role.A
    assert ran[listener].code is CloseCode.PROTOCOL
    assert windows[listener].failed == 1
    assert ran[listener].paired is None


# Calling out of turn, and the time


def test_once_failed_always_failed() -> None:
    _, b, noise_1 = until_noise_1(Window(), Window())
    b.machine.abort(1.0)
    b.turn()
    events = list(b.events)
    assert b.feed(noise_1) == b""
    b.machine.abort(1.0)
    b.machine.connection_lost(1.0)
    b.machine.on_deadline(99.0)
    assert b.machine.compute_pake() == PakeResult()
    b.machine.pake_computed(PakeResult(), 1.0)
    b.turn()
    assert b.events == events


def test_a_failed_machine_holds_nothing_of_what_still_comes() -> None:
    b = pairing(Role.B)
    b.abort(1.0)
    for _ in range(3):
        b.receive_data(bytes(1 << 16), 1.0)
    assert b._decoder.buffered == 0


def test_what_was_not_sent_yet_is_not_sent_after_a_failure() -> None:
    a = pairing(Role.A)
    a.abort(1.0)
    assert a.data_to_send(1.0) == b""


@pytest.mark.parametrize("door", ["receive_data", "data_to_send", "pake_computed", "abort", "connection_lost"])
def test_every_door_sees_that_the_time_is_over(door) -> None:
    b = Ran(pairing(Role.B))
    extra = {"receive_data": (b"",), "pake_computed": (PakeResult(),)}.get(door, ())
    getattr(b.machine, door)(*extra, PAIRING_DEADLINE)
    b.turn(PAIRING_DEADLINE)
    assert b.code is CloseCode.TIMED_OUT


def test_arithmetic_that_ends_after_the_pairing_is_ignored() -> None:
    window = Window()
    a, b = Ran(pairing(Role.A)), pairing(Role.B, window=window)
    b.receive_data(a.turn(), 1.0)
    b.receive_data(a.feed(b.data_to_send(1.0)), 1.0)
    assert b.next_event() == PakeDue()
    result = b.compute_pake()
    assert result.key
    b.connection_lost(1.0)
    b.pake_computed(result, 1.0)
    failed = b.next_event()
    assert isinstance(failed, Failed) and not failed.spent
    assert b.next_event() is None
    assert b.data_to_send(1.0) == b""
    assert (window.failed, window.open_tries) == (0, 0)


def test_a_frame_while_we_compute_is_out_of_turn() -> None:
    a, b = Ran(pairing(Role.A)), Ran(pairing(Role.B))
    hello_b = b.feed(a.turn())
    a.machine.receive_data(hello_b + encode_frame(Frame.PAKE, bytes(33)), 1.0)
    a.turn()
    assert a.code is CloseCode.PROTOCOL


def test_our_own_calls_out_of_turn_raise() -> None:
    for role in Role:
        machine = pairing(role)
        with pytest.raises(LocalProtocolError):
            machine.compute_pake()
        for result in (PakeResult(), PakeResult(b"message", b"key")):
            with pytest.raises(LocalProtocolError):
                machine.pake_computed(result, 1.0)
    a, b = run(pairing(Role.A), pairing(Role.B))
    for side in (a, b):
        with pytest.raises(LocalProtocolError):
            side.machine.compute_pake()
        side.machine.abort(1.0)
        side.machine.connection_lost(1.0)
        side.machine.on_deadline(99.0)
        assert side.machine.next_event() is None  # a pairing that is complete is the driver's to end


@pytest.mark.parametrize(
    "broken",
    [{"secret": b""}, {"digest": DIGEST[:31]}, {"static": bytes(31)}, {"label": "two\nlines"}],
    ids=["secret", "digest", "static", "label"],
)
def test_what_cannot_pair_is_refused_when_made(broken) -> None:
    with pytest.raises(LocalProtocolError):
        pairing(Role.A, **broken)


def test_the_table_leads_through_every_state_once() -> None:
    for role, table in TRANSITIONS.items():
        state, seen = State.HELLO, []
        while state is not State.PAIRED:
            seen.append(state)
            steps = [(trigger, after) for (before, trigger), (after, _) in table.items() if before is state]
            onward = [after for trigger, after in steps if trigger is not Own.REFUSED]
            assert len(onward) == 1, (role, state)
            state = onward[0]
        assert {before for before, _ in table} == set(seen)


# What comes in the profile, and what is shown


@pytest.mark.parametrize("label", ["", "x" * 63, "Zoës Gerät ✓", "האחד", "👩‍💻"])
def test_labels_that_may_be_shown(label: str) -> None:
    assert is_label(label)
    a, _ = run(pairing(Role.A), pairing(Role.B, label=label or "machine B"))
    assert a.paired is not None


@pytest.mark.parametrize("label", ["x" * 64, "a\nb", "\x1b[2J", "\x7f", "\u2028", "\u202ecod.exe", "\u2066x", "\ud800"])
def test_labels_that_may_not(label: str) -> None:
    assert not is_label(label)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[2J", "\u202ecod.exe"])
def test_a_peer_that_calls_itself_so_is_refused(label, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("meshd.protocol.pairing.is_label", lambda text: True)
        b = pairing(Role.B, label=label)
    a, _ = run(pairing(Role.A), b)
    assert a.code is CloseCode.PROTOCOL
    assert a.paired is None
    assert label not in str(a.failed.error)


def test_no_secret_in_any_repr_or_traceback() -> None:
    secrets = [SECRET, value("spake2_key"), value("static_private_a"), value("scalar_entropy_a")]
    a, b, _ = until_noise_1(Window(), Window())
    things = [a.machine, b.machine, *a.events, *a.results, *vars(a.machine).values()]
    assert a.results[-1].key == value("spake2_key")
    shown = "".join(repr(thing) for thing in things if not isinstance(thing, bytes))
    wrong, _ = run(pairing(Role.A), pairing(Role.B, secret=b"zoo-zebra-zero"))
    error: BaseException | None = wrong.failed.error
    while error is not None:
        shown += repr(error)
        error = error.__cause__ or error.__context__
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def test_a_machine_that_is_through_holds_no_secret_any_more() -> None:
    paired, _ = run(pairing(Role.A), pairing(Role.B))
    failed, _ = run(pairing(Role.A), pairing(Role.B, secret=b"zoo-zebra-zero"))
    for side in (paired, failed):
        held = vars(side.machine).values()
        assert SECRET not in held
        assert value("static_private_a") not in held


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("try_taken", [True, False])
@pytest.mark.parametrize("code", [*CloseCode, None, 0x77])
def test_every_close_code_is_said_in_words(code, try_taken, role) -> None:
    error = error_for_close(code, role, try_taken)
    assert error.what.endswith(".") and error.exit_code != 1
    wrong = code is CloseCode.WORDS_DIFFER or (code is CloseCode.WRONG_WORDS and try_taken)
    assert isinstance(error, WrongPassphraseError) is wrong


def test_entropy_is_asked_for_in_the_order_that_the_vectors_have() -> None:
    entropy = fixed_entropy("machine A")
    assert [entropy(32), entropy(64), entropy(32)] == [
        value(name) for name in ("nonce_a", "scalar_entropy_a", "ephemeral_private_a")
    ]


def test_paired_says_whose_key_it_was() -> None:
    a, b = run(pairing(Role.A), pairing(Role.B))
    again, _ = run(pairing(Role.A, name="another A"), pairing(Role.B))
    assert isinstance(again.paired, Paired)
    assert again.paired.peer_static == a.paired.peer_static != b.paired.peer_static
    assert again.paired.handshake_hash != a.paired.handshake_hash
