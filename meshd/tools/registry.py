"""Every operation of the daemon, declared once: what the command line, the control socket and the manual are made of.

A face asks here for what there is; none spells an operation's name. `tests/tools` holds the declarations against the
context: the same methods, the same arguments, answers that are there.
"""

from typing import Final

from meshd.tools import daemon_operations, handle_operations, mail_operations, mesh_operations
from meshd.tools.operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
    *mesh_operations.OPERATIONS,
    *handle_operations.OPERATIONS,
    *mail_operations.OPERATIONS,
    *daemon_operations.OPERATIONS,
)

GROUPS: Final[dict[str, str]] = {
    "agent": "Agents of this machine.",
    "delivery": "How agents of this machine are told of mail.",
    "doctor": "What is wrong, and what to do about it.",
    "mesh": "The meshes that this machine belongs to.",
    "peer": "Addresses where members may be.",
    "recovery": "What the recovery words of a mesh can do.",
}
"""First words that several commands share, and what they are about."""

BY_NAME: Final[dict[str, Operation]] = {each.name: each for each in OPERATIONS}
