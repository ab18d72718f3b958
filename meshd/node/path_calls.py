"""What may be asked about the ways to members: `tether doctor paths`."""

from typing import Final

import trio

from meshd.model.identity import NodeId
from meshd.node.calls import Calls
from meshd.node.mesh import Mesh
from meshd.node.wan import Seeking
from meshd.protocol.search import WAYS_LEFT
from meshd.tools.context import Mapping, MemberPath, Paths, ServerPath
from meshd.wire.rendezvous import Nat

_MAPPINGS: Final[dict[Nat, Mapping]] = {
    Nat.UNKNOWN: "unknown",
    Nat.ONE_FOR_ALL: "one for all",
    Nat.ONE_FOR_EACH: "one for each",
    Nat.NONE: "none",
}

_NO_SERVER: Final = (
    "No rendezvous server is named: across the internet it is found only by an address. Set `rendezvous`, or "
    "`tether peer add HOST:PORT`."
)


class PathCalls(Calls):
    """How each member is reached, and why others are not."""

    async def doctor_paths(self, *, mesh: str | None) -> Paths:
        chosen, seeking = self.mesh(mesh), self.node.seeking
        servers = seeking.wan.servers if seeking is not None else []
        me = self.node.machine.keys.identity.node
        return Paths(
            mesh=chosen.hex,
            name=chosen.name,
            port=self.node.machine.endpoint.port,
            mapping=_MAPPINGS[seeking.wan.nat] if seeking is not None else "unknown",
            mapped=str(seeking.mapped) if seeking is not None and seeking.mapped is not None else "",
            servers=tuple(
                ServerPath(
                    server=str(each.name),
                    connected=each.is_connected,
                    observed="" if each.observed is None else str(each.observed),
                    error="" if each.error is None else each.error.what,
                )
                for each in servers
            ),
            members=tuple(
                self._path(chosen, member.node, seeking) for member in chosen.roster.active() if member.node != me
            ),
        )

    def _path(self, mesh: Mesh, node: NodeId, seeking: Seeking | None) -> MemberPath:
        link = mesh.links.current.get(node)
        tried = None if seeking is None else seeking.tries.get((mesh.id, node))
        why = "" if tried is None or link is not None else tried.why
        advice = ""
        if link is None:
            advice = _NO_SERVER if seeking is None else WAYS_LEFT if why else ""
        return MemberPath(
            machine=self.machine(mesh, node),
            linked=link is not None,
            path="" if link is None else link.path.value,
            address="" if link is None else str(link.connection.path),
            sought=seeking is not None and seeking.sought(mesh, node),
            tried_age=None if tried is None else trio.current_time() - tried.when,
            server="" if tried is None else tried.server,
            mapping="unknown" if tried is None else _MAPPINGS[tried.theirs],
            candidates=() if tried is None else tuple(map(str, tried.candidates)),
            opened=() if tried is None else tuple(map(str, tried.opened)),
            why=why,
            advice=advice,
        )
