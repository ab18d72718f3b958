"""The tags by which members of one mesh know each other's announcements on a LAN. docs/protocol/finding.md, "On a LAN".

A tag is made of the mesh secret and the hour: who does not hold the secret sees random bytes that are others an hour later,
so an announcement names no mesh and cannot be followed from one network to the next (RFC 8882). Anybody can copy a tag
that is on the air. It selects whom to dial, and decides nothing.
"""

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Final

TAG_SIZE: Final = 8
"""Bytes of a tag: enough that strangers' tags do not look like ours by chance, short enough for eight in one TXT string."""

TAGS_LIMIT: Final = 8
"""Tags that one machine announces, and most that are read of an announcement. One string of a TXT record holds 255 bytes
(RFC 6763, section 6.1): eight tags in hexadecimal take 140."""

SECRETS_ANNOUNCED: Final = 3
"""A mesh's newest secrets that are announced under: a member that was away while one or two were replaced still finds us."""

HOUR_MS: Final = 3_600_000
"""A tag's life in milliseconds of wall time."""


def lan_tag(secret: bytes, hour: int) -> bytes:
    """The tag of a mesh secret (32 bytes) for one hour, counted since 1970."""
    return hmac.digest(secret, b"lan" + struct.pack(">Q", hour), hashlib.sha256)[:TAG_SIZE]


def tags_to_announce(meshes: Iterable[Sequence[bytes]], wall_ms: int) -> tuple[bytes, ...]:
    """This hour's tags for the secrets of several meshes, each newest first. Every mesh's newest comes before any mesh's
    second, so that as many meshes as possible are found when there are more than TAGS_LIMIT."""
    ranks = itertools.zip_longest(*(secrets[:SECRETS_ANNOUNCED] for secrets in meshes))
    hour = wall_ms // HOUR_MS
    return tuple(lan_tag(secret, hour) for rank in ranks for secret in rank if secret)[:TAGS_LIMIT]


def tags_to_accept(secrets: Iterable[bytes], wall_ms: int) -> frozenset[bytes]:
    """What members may announce now: all of a mesh's secrets, this hour and the ones beside it, since clocks differ."""
    hour = wall_ms // HOUR_MS
    return frozenset(lan_tag(secret, each) for secret in secrets for each in (hour - 1, hour, hour + 1) if each >= 0)


def next_change_ms(wall_ms: int) -> int:
    """The wall time at which tags change next."""
    return (wall_ms // HOUR_MS + 1) * HOUR_MS
