"""`--join`: two daemons make one mesh of their machines. This command asks its own daemon, and shows what it tells."""

from functools import partial
from typing import Any, Final

from meshd import status
from meshd.client import Told
from meshd.client.concurrent import AsyncClient
from meshd.drivers.transfer import Outcome
from meshd.errors import UsageError
from tether_lite import words
from tether_lite.display import Display
from tether_lite.jobs import Job, Options, peer_address, warner

LATEST: Final = 120.0
"""Seconds beyond the time-out for the daemon's answer: pairing and joining have deadlines of their own below that."""

_PAYLOAD: Final = ("send", "into", "overwrite", "accept", "verify", "interface", "quic_engine", "rendezvous")
_WORDS: Final = ("passphrase", "passphrase_file", "prompt")


def listen(options: Options, shown: Display, host: str | None, port: int | None, local_addr: str | None) -> Job:
    """Invite a machine into this one's mesh. Raises UsageError."""
    # A chosen passphrase is good for one meeting; what lets a machine into a mesh is never chosen.
    _refuse(options, (*_PAYLOAD, *_WORDS), host=host, port=port, local_addr=local_addr)
    return partial(_invite, options, shown)


def connect(
    options: Options,
    shown: Display,
    code: str | None,
    peer: str | None,
    host: str | None,
    port: int | None,
    token: int | None,
    local_addr: str | None,
) -> Job:
    """Let the machine that showed the code take this one into its mesh. Raises UsageError."""
    _refuse(options, _PAYLOAD, token=token, local_addr=local_addr)
    address = peer_address(peer, host, port)
    secret = words.for_connector(code, options.given, warner(shown))
    if secret.code is None:
        raise UsageError("A mesh is joined with a code.", "Use the one that the other machine shows.")
    where = None if address is None else str(address)
    return partial(_join, options, shown, str(secret.code), where)


def _refuse(options: Options, names: tuple[str, ...], **more: object) -> None:
    """What the daemon decides, or what is about a payload, is no option of this."""
    given = {name: getattr(options, name) for name in names} | more
    for name, value in given.items():
        if value:
            raise UsageError(
                f"--{name.replace('_', '-')} has no meaning with --join.",
                "The daemon pairs, on its own port, and nothing is handed over.",
            )


async def _invite(options: Options, shown: Display) -> list[Outcome]:
    def tell(told: Told) -> None:
        _show(shown, told)

    invited = await AsyncClient().call(
        "invite", tell=tell, within=options.timeout + LATEST, seconds=options.timeout, wan=options.wan
    )
    _say_joined(shown, invited, invited["machine"]["name"], "this machine")
    return []


async def _join(options: Options, shown: Display, code: str, peer: str | None) -> list[Outcome]:
    joined = await AsyncClient().call(
        "join", within=options.timeout + LATEST, code=code, peer=peer, seconds=options.timeout, wan=options.wan
    )
    _say_joined(shown, joined, joined["machine"]["name"], joined["by"]["name"])
    return []


def _show(shown: Display, told: Told) -> None:
    fields = told.fields
    match told.event:
        case "invite.opened":
            number = int(fields["code"].partition("-")[0])
            shown.code(fields["code"], "tether join --wan" if fields.get("wan") else "tether join")
            shown.event(status.Waiting(fields["port"], number, fields["seconds"]))
        case "try.spent":
            shown.event(status.TrySpent(fields["failed"], fields["remaining"], fields["why"]))


def _say_joined(shown: Display, answer: Any, machine: str, by: str) -> None:
    shown.event(status.Joined(answer["mesh_name"], machine, by))
