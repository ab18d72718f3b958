"""Tags on a LAN: whose they are is for members to see, for an hour."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from meshd.protocol.lantags import (
    HOUR_MS,
    TAG_SIZE,
    TAGS_LIMIT,
    lan_tag,
    next_change_ms,
    tags_to_accept,
    tags_to_announce,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "finding.json").read_text())
SECRETS = st.binary(min_size=32, max_size=32)
WALL = st.integers(0, 4_102_444_800_000)


def test_the_published_vectors() -> None:
    for each in VECTORS["lan_tags"]:
        assert lan_tag(bytes.fromhex(each["secret"]), each["hour"]).hex() == each["tag"]


@given(SECRETS, WALL, st.integers(-HOUR_MS, HOUR_MS))
def test_clocks_may_differ_by_an_hour(secret: bytes, wall_ms: int, skew: int) -> None:
    announced = tags_to_announce([[secret]], max(wall_ms + skew, 0))
    assert not tags_to_accept([secret], wall_ms).isdisjoint(announced)


@given(SECRETS, WALL)
def test_a_tag_means_nothing_two_hours_later_or_under_another_secret(secret: bytes, wall_ms: int) -> None:
    (tag,) = tags_to_announce([[secret]], wall_ms)
    assert len(tag) == TAG_SIZE
    assert tag not in tags_to_accept([secret], wall_ms + 2 * HOUR_MS)
    assert tag not in tags_to_accept([bytes(32 - 1) + b"x" if secret == bytes(32) else bytes(32)], wall_ms)


def test_three_secrets_a_mesh_and_every_meshs_newest_first() -> None:
    meshes = [[bytes([mesh, age]) * 16 for age in range(5)] for mesh in range(4)]
    tags = tags_to_announce(meshes, 0)
    assert len(tags) == TAGS_LIMIT
    assert list(tags[:4]) == [lan_tag(secrets[0], 0) for secrets in meshes]
    assert list(tags[4:]) == [lan_tag(secrets[1], 0) for secrets in meshes]
    assert tags_to_announce([meshes[0]], 0) == tuple(lan_tag(secret, 0) for secret in meshes[0][:3])
    # A mesh whose secrets are not known yet has nothing to be known by.
    assert tags_to_announce([[], meshes[1][:1]], 0) == (lan_tag(meshes[1][0], 0),)


def test_who_answers_knows_every_secret_it_ever_held() -> None:
    secrets = [bytes([age]) * 32 for age in range(9)]
    assert set(tags_to_announce([secrets[8:]], HOUR_MS)) <= tags_to_accept(secrets, HOUR_MS)


@given(WALL)
def test_the_next_change_is_the_next_hour(wall_ms: int) -> None:
    then = next_change_ms(wall_ms)
    assert 0 < then - wall_ms <= HOUR_MS and then % HOUR_MS == 0
    assert tags_to_announce([[bytes(32)]], then - 1) == tags_to_announce([[bytes(32)]], wall_ms)
    assert tags_to_announce([[bytes(32)]], then) != tags_to_announce([[bytes(32)]], wall_ms)
