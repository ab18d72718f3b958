"""What `tether doctor` finds: every finding with what to do about it, from one status and nothing else. Pure."""

from typing import Literal

import attrs

from meshd.tools.context import MachineStatus, MeshStatus, Problem, Status
from meshd.tools.text import ago, count, machine, size

Level = Literal["ok", "warning", "error"]

SLOW_AFTER = 1.0
"""Seconds of round trip beyond which a link is worth a word."""


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    what: str
    advice: str
    level: Level


@attrs.frozen
class Diagnosis:
    """All of them, the machine's own first."""

    findings: tuple[Finding, ...]


def diagnose(status: Status) -> Diagnosis:
    """Look at everything that a status tells."""
    found = [_disk(status), _lan(status), *(_problem(each) for each in status.problems)]
    if not status.meshes:
        found.append(
            Finding("This machine is in no mesh.", "`tether init` founds one, `tether join` enters one.", "warning")
        )
    for mesh in status.meshes:
        found += _mesh(mesh)
    return Diagnosis(tuple(found))


def _disk(status: Status) -> Finding:
    text = f"The disk of {status.state} has {size(status.disk_free)} free."
    if status.disk_free < status.disk_floor:
        return Finding(
            text, f"Blobs are refused below {size(status.disk_floor)}: free some space, or `tether gc`.", "error"
        )
    return Finding(text, "", "ok")


def _lan(status: Status) -> Finding:
    if status.lan:
        return Finding(f"Members on the local network are looked for; UDP port {status.port}.", "", "ok")
    return Finding(
        "The local network is not searched.", "Set `lan = true`, or give addresses: `tether peer add`.", "warning"
    )


def _problem(problem: Problem) -> Finding:
    return Finding(problem.what, problem.advice, problem.level)


def _mesh(mesh: MeshStatus) -> list[Finding]:
    found = [_problem(each) for each in mesh.problems]
    if mesh.generation > 1:
        found.append(
            Finding(
                f"{mesh.name}: this machine was copied or restored once; its history goes on as generation {mesh.generation}.",
                "",
                "ok",
            )
        )
    if mesh.waiting_records:
        found.append(
            Finding(
                f"{mesh.name}: {count(mesh.waiting_records, 'record')} from a clock far ahead wait.",
                "Set the clocks of all machines; `tether events` names the author.",
                "warning",
            )
        )
    if mesh.machines and not any(each.linked for each in mesh.machines):
        found.append(
            Finding(
                f"{mesh.name}: no machine is linked.",
                "Is another one up? Where UDP or multicast is blocked, give an address: `tether peer add HOST:PORT`.",
                "error",
            )
        )
    return found + [_machine(mesh, each) for each in mesh.machines]


def _machine(mesh: MeshStatus, each: MachineStatus) -> Finding:
    name = f"{mesh.name}: {machine(each.machine)}"
    if each.blocked:
        return Finding(f"{name} is blocked here.", "", "ok")
    if not each.linked:
        return Finding(f"{name} is not linked, seen {ago(each.seen_age)}.", "Is it up, and on a network?", "warning")
    if each.round_trip is not None and each.round_trip > SLOW_AFTER:
        return Finding(
            f"{name} takes {each.round_trip:.1f} s to answer.", "The path is slow, or that machine busy.", "warning"
        )
    return Finding(f"{name} is linked ({each.path}, {each.address}).", "", "ok")
