"""Who is on this LAN, as announcements say, which prove nothing: a listener that may be meant, a daemon that may be ours."""

import attrs

from meshd.model.address import Address


@attrs.frozen
class Candidate:
    """An open pairing window somewhere. `instance` is the random name it is announced under.

    `number` is that of its code, None where the passphrase was chosen. `addresses` come in the order to try them.
    """

    instance: str
    number: int | None
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        where = ", ".join(str(address) for address in self.addresses) or "no address"
        return where if self.number is None else f"number {self.number} at {where}"


@attrs.frozen
class Gone:
    """An instance that took its announcement back."""

    instance: str


Sighting = Candidate | Gone


@attrs.frozen
class Invitation:
    """That a pairing window is open here. `number` is that of its code, None where the passphrase was chosen."""

    number: int | None


@attrs.frozen
class Neighbour:
    """A daemon on this LAN: where it says it is, and the tags of its meshes, of which perhaps none means anything here."""

    instance: str
    tags: tuple[bytes, ...]
    addresses: tuple[Address, ...]
    """In the order to try them."""
