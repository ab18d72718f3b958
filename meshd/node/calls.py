"""What all parts of the context share: which mesh and which machine are meant, and how content is named in an answer."""

from typing import TYPE_CHECKING

from meshd.errors import NobodyFoundError, UsageError
from meshd.model.handle import Handle
from meshd.model.identity import NodeId
from meshd.model.member import Member
from meshd.model.name import same_name
from meshd.node.mesh import Mesh
from meshd.node.naming import machine_ref, named_member
from meshd.store.views import Found
from meshd.tools.context import MachineRef

if TYPE_CHECKING:
    from meshd.node.node import Node


class Calls:
    """A part of the context of one node."""

    def __init__(self, node: "Node") -> None:
        self.node = node

    def mesh(self, text: str | None) -> Mesh:
        """The mesh that is meant. Raises UsageError, NobodyFoundError."""
        meshes = list(self.node.meshes.values())
        if not meshes and self.node.unopened:
            raise self.node.unopened[0]
        if not meshes:
            raise NobodyFoundError(
                "This machine is in no mesh yet.", "Found one with tether init, or join one with tether join."
            )
        if text is None:
            if len(meshes) > 1:
                names = ", ".join(sorted(each.name for each in meshes))
                raise UsageError(f"This machine is in several meshes: {names}.", "Say which with --mesh.")
            return meshes[0]
        found = [each for each in meshes if same_name(each.name, text)] or [
            each for each in meshes if len(text) >= 4 and each.hex.startswith(text.lower())
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{text!r} may be {' or '.join(each.hex[:16] for each in found)}.", "Say which by its id.")
        raise NobodyFoundError(f"This machine is in no mesh called {text!r:.80}.", "See: tether mesh list.")

    def member(self, mesh: Mesh, text: str) -> Member:
        """The machine that is meant, of whatever standing. Raises UsageError, NobodyFoundError."""
        return named_member(mesh, text)

    def machine(self, mesh: Mesh, node: NodeId) -> MachineRef:
        """A machine, for an answer."""
        return machine_ref(mesh, node)

    def here(self, mesh: Mesh) -> MachineRef:
        """This machine, as a mesh calls it."""
        return self.machine(mesh, self.node.machine.keys.identity.node)

    def named(self, found: Found) -> tuple[str, str]:
        """The short and the full handle of some content."""
        handle = Handle.of(found.table, found.digest)
        return handle.short, str(handle)

    async def told(self, mesh: Mesh, found: Found) -> tuple[str, str]:
        """As `named`, but the full one twice where the short one has another meaning too: nobody is to pass that on."""
        handle = Handle.of(found.table, found.digest)
        digits = handle.digits[:12]
        meant = await mesh.storage.read(lambda database: database.handles.find(found.table, digits))
        return (str(handle) if len(meant) > 1 else handle.short), str(handle)
