"""Writes records.json: identities, a record of every type, what a decoder refuses, forgeries, and a whole mesh.

    python -m tests.vectors.make_records

The private keys are BLAKE3 of "<name> signs" and "<name> speaks", as in tests/model/mesh_kit.py.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from meshd.model.announcement import Addresses, Blob, BlobRef, Child, Held, Spot, Tag, Tree, Value
from meshd.model.clock import at
from meshd.model.facts import Cut, Distrust, Fork, Found, Rename, Revoke, Sealed, Secret, countersign
from meshd.model.identity import node_text
from meshd.model.message import (
    Agent,
    Attached,
    Box,
    Card,
    Letter,
    OpenMail,
    Reached,
    SealedMail,
    Target,
    Thread,
)
from meshd.model.record import NO_HASH, Head, Log, Record, write_record
from meshd.wire.bodies import Body, encode, type_of
from tests.model.mesh_kit import Mesh, keys_of

FILE = Path(__file__).with_name("records.json")

KEYS = keys_of("f")
NEWCOMER = keys_of("a")
MESH = bytes(range(32))
REF = BlobRef(digest=b"d" * 32, size=3 << 20, list_digest=b"l" * 32)


def record(kind: str, log: Log, body: bytes, ttl: int = 0) -> Record:
    """The second of a chain."""
    return write_record(
        KEYS,
        mesh=MESH,
        log=log,
        generation=2,
        previous=Head(1, b"p" * 32),
        clock=at(1_700_000_000_000) + 3,
        kind=kind,
        body=body,
        ttl=ttl,
    )


LOOSE = [record("roster.name", Log.ROSTER, body).without_body().encode() for body in (b"1", b"2")]
BODIES: list[Body] = [
    Found(
        mesh_name="lab",
        name="f",
        noise_key=KEYS.identity.noise_key,
        binding=KEYS.identity.binding,
        recovery_key=keys_of("recovery words").identity.signing_key,
        nonce=bytes(32),
    ),
    countersign(NEWCOMER, MESH, KEYS.identity.signing_key, "a"),
    Revoke(
        signing_key=NEWCOMER.identity.signing_key,
        cuts=(Cut(0, 1, 3, b"h" * 32), Cut(1, 1, 1 << 40, b"i" * 32)),
        keep=(b"k" * 32,),
        reason="lost on a train",
    ),
    Secret(number=2, replaces=(b"r" * 32,), sealed=(Sealed(NEWCOMER.identity.signing_key, b"box"),)),
    Rename("nas.home"),
    Distrust(NEWCOMER.identity.signing_key, "odd", False),
    Fork(LOOSE[0], LOOSE[1]),
    Value(table="notes", json=b'{"text":"hello"}', blob=None, tags=("a", "b")),
    Blob(ref=REF, content_type="text/plain", name="a.txt", total=3 << 20, tags=(), addressees=(b"n" * 32,)),
    Tree(children=(Child(table="inline", digest=b"c" * 32), Child(table="blob", digest=b"d" * 32)), tags=()),
    Tag(table="blob", digest=b"d" * 32, add=("keep",), remove=("old",)),
    Held(digest=b"d" * 32, size=3 << 20),
    Addresses(spots=(Spot("192.0.2.7", 4433), Spot("2001:db8::7", 4433))),
    SealedMail(boxes=(Box(NEWCOMER.identity.signing_key, b"b" * 144),), salt=b"s" * 32, sealed=b"c" * 528),
    OpenMail(
        letter=Letter(
            sender="codex",
            target=Target("broadcast"),
            to=(Agent("claude", NEWCOMER.identity.node),),
            subject="a subject",
            text="a text\nof two lines",
            attached=(Attached("blob", b"d" * 32),),
            tags=("build",),
            ticket="T-1",
            thread="release",
            reply_to=b"r" * 32,
            key="once",
        )
    ),
    Reached(signing_key=NEWCOMER.identity.signing_key, generation=1, sequence=7, without=(2, 5)),
    Thread(name="release", description="what is left"),
    Card(
        name="codex",
        label="Codex",
        tags=("reviewer",),
        capabilities=("python",),
        status="busy",
        live=True,
        removed=False,
    ),
]


def fields(body: Body) -> dict[str, Any]:
    found = msgspec.msgpack.decode(encode(body))
    assert isinstance(found, dict)
    return found


def changed(place: int, **values: object) -> bytes:
    return msgspec.msgpack.encode(fields(BODIES[place]) | values)


def letter(**values: object) -> bytes:
    """The open letter, with other fields."""
    return changed(14, letter=fields(BODIES[14])["letter"] | values)


BROKEN: list[tuple[str, str, bytes]] = [
    ("a long name of a mesh", "roster.found", changed(0, mesh_name="x" * 64)),
    ("a short nonce", "roster.found", changed(0, nonce=bytes(31))),
    ("a long recovery key", "roster.found", changed(0, recovery_key=bytes(33))),
    ("a short key", "roster.admit", changed(1, signing_key=bytes(31))),
    ("a short countersignature", "roster.admit", changed(1, countersignature=bytes(63))),
    ("text for bytes", "roster.admit", changed(1, noise_key="x" * 32)),
    ("1,025 cuts", "roster.revoke", changed(2, cuts=[fields(BODIES[2])["cuts"][0]] * 1025)),
    ("a cut of a third log", "roster.revoke", changed(2, cuts=[fields(BODIES[2])["cuts"][0] | {"log": 2}])),
    ("a cut at 0", "roster.revoke", changed(2, cuts=[fields(BODIES[2])["cuts"][0] | {"sequence": 0}])),
    ("a cut of generation 0", "roster.revoke", changed(2, cuts=[fields(BODIES[2])["cuts"][0] | {"generation": 0}])),
    ("1,001 kept", "roster.revoke", changed(2, keep=[bytes(32)] * 1001)),
    ("a long reason", "roster.revoke", changed(2, reason="x" * 501)),
    ("a second secret number 1", "roster.secret", changed(3, number=1)),
    ("a long box", "roster.secret", changed(3, sealed=[{"signing_key": bytes(32), "box": bytes(161)}])),
    ("a long name", "roster.name", changed(4, name="x" * 64)),
    ("a number for a truth", "roster.distrust", changed(5, lifted=1)),
    ("half a proof too long", "roster.fork", changed(6, one=bytes(1025))),
    ("a table of 33", "handle.value", changed(7, table="x" * 33)),
    ("long JSON", "handle.value", changed(7, json=bytes(192 * 1024 + 1))),
    ("33 tags", "handle.value", changed(7, tags=["x"] * 33)),
    ("an empty tag", "handle.value", changed(7, tags=[""])),
    ("65 addressees", "handle.blob", changed(8, addressees=[bytes(32)] * 65)),
    ("a negative size", "handle.blob", changed(8, ref=fields(BODIES[8])["ref"] | {"size": -1})),
    ("a size beyond the limit", "handle.blob", changed(8, ref=fields(BODIES[8])["ref"] | {"size": (1 << 38) + 1})),
    ("2,049 children", "handle.tree", changed(9, children=[fields(BODIES[9])["children"][0]] * 2049)),
    ("a short digest", "handle.tag", changed(10, digest=bytes(31))),
    ("a fraction", "blob.held", changed(11, size=1.5)),
    ("17 addresses", "node.addresses", changed(12, spots=[fields(BODIES[12])["spots"][0]] * 17)),
    ("port 0", "node.addresses", changed(12, spots=[fields(BODIES[12])["spots"][0] | {"port": 0}])),
    ("65 boxes", "mail.sealed", changed(13, boxes=[fields(BODIES[13])["boxes"][0]] * 65)),
    ("a long box for mail", "mail.sealed", changed(13, boxes=[{"signing_key": bytes(32), "box": bytes(161)}])),
    ("a short salt", "mail.sealed", changed(13, salt=bytes(31))),
    ("more than a body sealed", "mail.sealed", changed(13, sealed=bytes(240 * 1024 + 1))),
    ("a target of no kind", "mail.open", letter(target={"kind": "role", "word": "", "node": b""})),
    ("257 addressees", "mail.open", letter(to=[{"name": "a", "node": bytes(32)}] * 257)),
    ("a long subject", "mail.open", letter(subject="x" * 201)),
    ("a long text", "mail.open", letter(text="x" * (128 * 1024 + 1))),
    ("33 attachments", "mail.open", letter(attached=[{"table": "blob", "digest": bytes(32)}] * 33)),
    ("a long key", "mail.open", letter(key="x" * 101)),
    ("a long answer", "mail.open", letter(reply_to=bytes(33))),
    ("generation 0 reached", "mail.reached", changed(15, generation=0)),
    ("257 without a body", "mail.reached", changed(15, without=[1] * 257)),
    ("number 0 reached", "mail.reached", changed(15, sequence=0)),
    ("a long name of a thread", "mail.thread", changed(16, name="x" * 64)),
    ("a long label", "agent.card", changed(17, label="x" * 64)),
    ("33 capabilities", "agent.card", changed(17, capabilities=["x"] * 33)),
    ("no bytes", "roster.name", b""),
    ("a list", "roster.name", b"\x91\xa1x"),
    ("a map of four billion", "roster.name", b"\xdf\xff\xff\xff\xff"),
    ("no UTF-8", "roster.name", b"\x81\xa4name\xa1\xff"),
    ("deep nesting", "roster.name", b"\x82\xa4name\xa1x\xa1y" + b"\x91" * 5000 + b"\xc0"),
    ("something behind it", "roster.name", b"\x81\xa4name\xa1x\x00"),
]


def shown(one: Record) -> dict[str, Any]:
    header = one.header
    return {
        "type": header.type,
        "author": header.author.hex(),
        "mesh": header.mesh.hex(),
        "log": int(header.log),
        "generation": header.generation,
        "sequence": header.sequence,
        "previous": header.previous.hex(),
        "clock": header.clock,
        "ttl": header.ttl,
        "hash": one.hash.hex(),
        "encoded": one.encode().hex(),
    }


def records() -> list[Record]:
    found = []
    for body in BODIES:
        name, log = type_of(body)
        if isinstance(body, Found):
            founding = write_record(
                KEYS, mesh=NO_HASH, log=log, generation=1, previous=None, clock=at(1), kind=name, body=encode(body)
            )
            found.append(founding)
        else:
            found.append(record(name, log, encode(body), ttl=3600 if isinstance(body, Value) else 0))
    return found


def refused(good: bytes) -> list[dict[str, str]]:
    """What no decoder may take. The header begins at byte 3, its numbers are big-endian."""
    changes = {
        "format 2": good[:3] + b"\2" + good[4:],
        "log 2": good[:4] + b"\2" + good[5:],
        "generation 0": good[:69] + bytes(4) + good[73:],
        "sequence 0": good[:73] + bytes(8) + good[81:],
        "flag 2": good[:2] + b"\2" + good[3:],
        "a body that was said not to be there": good[:2] + b"\0" + good[3:],
        "a byte more": good + b"\0",
        "a byte less": good[:-1],
        "a header that ends too early": b"\0\x20" + good[2:],
        "upper case in the type": good.replace(b"roster.name", b"roster.Name", 1),
        "nothing": b"",
    }
    return [{"why": why, "encoded": data.hex()} for why, data in changes.items()]


def forged(good: bytes) -> list[dict[str, str]]:
    def flip(place: int) -> bytes:
        return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]

    signature = len(good) - len(encode(BODIES[4])) - 64
    changes = {
        "another mesh": flip(5),
        "another author": flip(37),
        "another number": flip(80),
        "another clock": flip(120),
        "another signature": flip(signature),
        "another body": flip(len(good) - 1),
    }
    return [{"why": why, "encoded": data.hex()} for why, data in changes.items()]


def whole_mesh() -> dict[str, Any]:
    mesh = Mesh()
    mesh.admit("f", "a", "b")
    mesh.admit("b", "c", "d")
    mesh.revoke("b", "a")  # not above it: no force
    mesh.revoke("f", "b", keep=["c"], reason="stolen")
    mesh.rename("c", "nas")
    roster = mesh.roster()
    return {
        "id": mesh.id.hex(),
        "records": [record.encode().hex() for machine in mesh.machines.values() for record, _ in machine.written],
        "standings": {member.name: member.standing.value for member in roster.members.values()},
        "digest": roster.digest().hex(),
    }


def build() -> dict[str, Any]:
    named = next(one for one in records() if one.header.type == "roster.name").encode()
    identities = []
    for name in ("f", "a"):
        identity = keys_of(name).identity
        identities.append(
            {
                "name": name,
                "signing key": identity.signing_key.hex(),
                "noise key": identity.noise_key.hex(),
                "binding": identity.binding.hex(),
                "node id": identity.node.hex(),
                "node text": node_text(identity.node),
            }
        )
    return {
        "identities": identities,
        "records": [shown(one) for one in records()],
        "refused": refused(named),
        "forged": forged(named),
        "broken": [{"why": why, "type": kind, "body": data.hex()} for why, kind, data in BROKEN if len(data) < 4096],
        "mesh": whole_mesh(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
