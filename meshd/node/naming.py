"""Machines in arguments and in answers: which one is meant, and how it is shown."""

from typing import TYPE_CHECKING

from meshd.errors import NobodyFoundError, UsageError
from meshd.model.identity import NodeId, node_text, short_text
from meshd.model.member import Member
from meshd.tools.context import MachineRef

if TYPE_CHECKING:  # it is made of parts that ask here
    from meshd.node.mesh import Mesh


def named_member(mesh: "Mesh", text: str, *, prefer_active: bool = False) -> Member:
    """The machine that is meant, of whatever standing. Raises UsageError, NobodyFoundError."""
    found = mesh.roster.named(text) if text else []
    if prefer_active:
        found = [each for each in found if each.is_active] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{each.name} ({short_text(each.node)})" for each in found)
        raise UsageError(f"{text!r:.80} may be {names}.", "Say which by the characters in parentheses.")
    raise NobodyFoundError(f"No machine of the mesh {mesh.name} is called {text!r:.80}.", "See: tether members.")


def machine_ref(mesh: "Mesh", node: NodeId) -> MachineRef:
    """A machine, for an answer."""
    return MachineRef(node_text(node), mesh.name_of(node))
