"""Operations on links, on what is known, and on the daemon itself."""

from typing import Any, Final

from meshd.tools import news, shown
from meshd.tools.kinds import ADDRESS, COUNT, MACHINE, OUTPUT
from meshd.tools.mesh_operations import WHICH_MESH
from meshd.tools.operation import Argument, Audience, Example, Operation, Tells, flag


def _diagnose(status: Any) -> Any:
    from meshd.tools.diagnosis import diagnose  # loads attrs classes, which the command line does without

    return diagnose(status)


def _worst(found: Any) -> int:
    return int(any(each.level == "error" for each in found.findings))


OPERATIONS: Final = (
    Operation(
        name="status",
        words=("status",),
        summary="Show the daemon, every mesh, and what was last known of each machine.",
        details="Each figure about another machine comes with its age.",
        arguments=(WHICH_MESH._replace(meaning="Only this mesh."),),
        result="Status",
        show=shown.status,
        errors=("NobodyFoundError",),
        examples=(Example("tether status --json", "for a script"),),
        within=10.0,
    ),
    Operation(
        name="doctor",
        words=("doctor",),
        summary="Look for what is wrong, and say what to do about it.",
        details="Exit code 1 when something is.",
        arguments=(WHICH_MESH._replace(meaning="Only this mesh."),),
        result="Diagnosis",
        show=shown.diagnosis,
        source="status",
        derive=_diagnose,
        exit_code=_worst,
        examples=(Example("tether doctor", "a machine does not turn up"),),
        within=10.0,
    ),
    Operation(
        name="doctor_paths",
        words=("doctor", "paths"),
        summary="Show how each member is reached, and why others are not: addresses, routers, what was tried.",
        details="Rendezvous servers are asked only while a member is not linked; two show how a router maps.",
        arguments=(WHICH_MESH,),
        result="Paths",
        show=shown.paths,
        errors=("NobodyFoundError",),
        examples=(Example("tether doctor paths", "a machine behind another router does not turn up"),),
        within=10.0,
    ),
    Operation(
        name="ping",
        words=("ping",),
        summary="Measure how long a member's daemon takes to answer.",
        arguments=(
            WHICH_MESH,
            Argument("machine", MACHINE, "The machine to ask.", positional=True),
            Argument("count", COUNT, "How often to ask.", default=3),
        ),
        result="Ping",
        show=shown.ping,
        errors=("NobodyFoundError", "TimedOutError"),
        examples=(Example("tether ping tower", "three round trips"),),
        within=None,
    ),
    Operation(
        name="peer_add",
        words=("peer", "add"),
        summary="Give an address where a member may be, where multicast does not reach.",
        details="It is tried again and again until it is removed; who answers there must be a member.",
        arguments=(WHICH_MESH, Argument("address", ADDRESS, "HOST or HOST:PORT.", positional=True)),
        result="PeerChanged",
        show=shown.peer_added,
        errors=("NobodyFoundError", "RefusedError"),
        examples=(Example("tether peer add tower.example:64327", "another network"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="peer_remove",
        words=("peer", "remove"),
        summary="Forget an address that was given by hand.",
        arguments=(WHICH_MESH, Argument("address", ADDRESS, "HOST or HOST:PORT.", positional=True)),
        result="PeerChanged",
        show=shown.peer_removed,
        errors=("NobodyFoundError",),
        examples=(Example("tether peer remove tower.example:64327", "it has moved"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="peer_list",
        words=("peer", "list"),
        summary="List the addresses that are tried, and how each is known.",
        arguments=(WHICH_MESH,),
        result="PeerAddresses",
        show=shown.addresses,
        errors=("NobodyFoundError",),
        examples=(Example("tether peer list", "given by hand, remembered, learnt"),),
    ),
    Operation(
        name="digest",
        words=("digest",),
        summary="Print one hash a view: equal on two machines when they show the same.",
        arguments=(WHICH_MESH,),
        result="Digests",
        show=shown.digests,
        errors=("NobodyFoundError",),
        examples=(Example("tether digest", "compare with another machine's"),),
    ),
    Operation(
        name="events",
        words=("events",),
        summary="Print what happened lately, and with --follow what happens from now on.",
        arguments=(
            WHICH_MESH._replace(meaning="Only this mesh."),
            flag("follow", "Go on until interrupted.", "--follow", "-f"),
        ),
        result="EventsEnd",
        show=shown.nothing,
        tells=Tells.NEWS,
        show_event=news.line,
        dated=True,
        errors=("NobodyFoundError",),
        examples=(Example("tether events --follow --json", "one object a line"),),
        within=None,
    ),
    Operation(
        name="backup",
        words=("backup",),
        summary="Write this machine's keys and meshes to one file.",
        details="The file is a secret, mode 0600. `tether restore` makes a machine of it again.",
        arguments=(
            Argument("out", OUTPUT, "The file to write.", positional=True),
            flag("blobs", "With the content of blobs; without it, they are fetched again from other members."),
            flag("overwrite", "Replace a file that is there."),
        ),
        result="BackedUp",
        show=shown.backed_up,
        errors=("RefusedError", "StoreError"),
        examples=(Example("tether backup tower.tether --blobs", "everything"),),
        audience=Audience.PEOPLE,
        within=None,
    ),
    Operation(
        name="config",
        words=("config",),
        summary="Show every setting, and whether the file or the environment decided it.",
        details="Change the file and run `tether reload`. docs/configuration.md explains the settings.",
        arguments=(),
        result="Configuration",
        show=shown.configuration,
        examples=(Example("tether config", "which file, which values"),),
    ),
    Operation(
        name="reload",
        words=("reload",),
        summary="Read the settings again.",
        arguments=(),
        result="Reloaded",
        show=shown.reloaded,
        examples=(Example("tether reload", "after a change of config.toml"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="stop",
        words=("stop",),
        summary="Stop the daemon.",
        arguments=(),
        result="Stopping",
        show=shown.stopping,
        examples=(Example("tether stop", "a service manager may start it again"),),
        audience=Audience.PEOPLE,
    ),
)
