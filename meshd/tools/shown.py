"""How a person sees each answer: pure functions from an answer to text.

An answer is an instance of a class of context.py or anything with its fields: the command line builds such a thing from
JSON. Texts that peers wrote were made harmless by then, which is why nothing here does it.
"""

from typing import Any

from meshd.tools.text import ago, columns, count, fields, machine, machines, milliseconds, short, size, span


def founded(found: Any) -> str:
    text = f"Founded mesh {found.name} ({short(found.mesh)}); this machine is {machine(found.machine)} in it."
    if found.recovery_words:
        words = found.recovery_words
        lines = [" ".join(words[at : at + 6]) for at in range(0, len(words), 6)]
        text += (
            "\n\nRecovery words. Write them down on paper: they are shown this once and kept nowhere. Whoever has them can\n"
            "revoke any machine of this mesh.\n\n  " + "\n  ".join(lines)
        )
    return text + "\n\nNext: `tether invite` here, and `tether join` on another machine."


def left(found: Any) -> str:
    news = (
        f"{count(found.told, 'member')} heard it"
        if found.told
        else "nobody was there to hear it, and members go on expecting this machine"
    )
    return f"Left mesh {found.name} ({short(found.mesh)}): {news}."


def meshes(found: Any) -> str:
    if not found.meshes:
        return "This machine is in no mesh. `tether init` founds one, `tether join` enters one."
    return columns(
        ("MESH", "ID", "THIS MACHINE", "MEMBERS", "LINKED"),
        [
            (each.name, short(each.mesh), machine(each.machine), str(each.members), str(each.linked))
            for each in found.meshes
        ],
    )


def invited(found: Any) -> str:
    return f"{machine(found.machine)} at {found.address} is now a member of {found.mesh_name}."


def joined(found: Any) -> str:
    return (
        f"Joined mesh {found.mesh_name} ({short(found.mesh)}) as {machine(found.machine)}, let in by {machine(found.by)}; "
        f"{count(found.members, 'member')}."
    )


def inviting(event: str, told: Any) -> str | None:
    if event == "invite.opened":
        if told.wan:
            return (
                f"Code: {told.code}\nOn the other machine, within {span(told.seconds)}: tether join --wan {told.code}"
            )
        return (
            f"Code: {told.code}\nOn the other machine, within {span(told.seconds)}: tether join {told.code}\n"
            f"(where multicast does not reach: tether join {told.code} --peer ADDRESS:{told.port})"
        )
    left = "none is left" if told.remaining == 0 else f"{told.remaining} left"
    return f"Try {told.failed} failed, {left}: {told.why.rstrip('.')}."


def members(found: Any) -> str:
    def notes(each: Any) -> str:
        said = [
            *(["this machine"] if each.here else []),
            *(["linked"] if each.linked else []),
            *(["blocked here"] if each.blocked else []),
            *([f"blocked by {machines(each.distrusted_by)}"] if each.distrusted_by else []),
            *(["history forked"] if each.forked else []),
            *([f"reason: {each.reason}"] if each.reason else []),
        ]
        return "; ".join(said)

    return columns(
        ("MACHINE", "ID", "STANDING", "ADMITTED BY", "NOTES"),
        [
            (
                "  " * each.depth + each.machine.name,
                short(each.machine.node),
                each.standing,
                "founder" if each.admitted_by is None else each.admitted_by.name,
                notes(each),
            )
            for each in found.members
        ],
    )


def revoked(found: Any) -> str:
    verb = "would be" if found.dry_run else "is"
    lines = [f"{machine(found.machine)} {verb} revoked, for good: it can return with new keys only."]
    if found.suspended:
        lines.append(f"Suspended with it, since it let them in: {machines(found.suspended)}. Use --keep to keep some.")
    if found.kept:
        lines.append(f"Kept: {machines(found.kept)}.")
    return "\n".join(lines)


def recovery_checked(found: Any) -> str:
    verdict = "These are" if found.right else "These are NOT"
    return f"{verdict} the recovery words of mesh {found.mesh_name} ({short(found.mesh)})."


def blocked(found: Any) -> str:
    if found.blocked:
        return f"{machine(found.machine)} is blocked on this machine; the other members are told, and decide for themselves."
    return f"{machine(found.machine)} is not blocked on this machine."


def renamed(found: Any) -> str:
    return f"This machine is now {machine(found.machine)}; it was {found.before}."


def addresses(found: Any) -> str:
    if not found.addresses:
        return "No address is known."
    return columns(
        ("ADDRESS", "KIND", "MACHINE", "LAST ANSWERED"),
        [
            (each.address, each.kind, machine(each.machine) if each.machine else "-", ago(each.last_ok_age))
            for each in found.addresses
        ],
    )


def peer_added(found: Any) -> str:
    return f"{found.address} is {'tried from now on' if found.changed else 'known already'}."


def peer_removed(found: Any) -> str:
    return f"{found.address} is {'forgotten' if found.changed else 'not among those given by hand'}."


def ping(found: Any) -> str:
    times = found.round_trips
    said = f"{', '.join(map(milliseconds, times))}; best {milliseconds(min(times))}" if times else "no answer"
    return f"{machine(found.machine)} at {found.address} ({found.path}): {said}"


def status(found: Any) -> str:
    disk = f"{size(found.disk_free)} free (blobs leave {size(found.disk_floor)}; looked {ago(found.disk_age)})"
    lines = [
        f"meshd {found.version}, pid {found.pid}, up {span(found.uptime)}, {size(found.memory)} of memory; node "
        f"{short(found.node)}",
        f"UDP {found.host or 'all addresses'} port {found.port} ({found.engine}), local network "
        f"{'searched' if found.lan else 'not searched'}; state {found.state}, disk {disk}",
        *_problems(found.problems),
    ]
    if not found.meshes:
        lines.append("In no mesh. `tether init` founds one, `tether join` enters one.")
    for mesh in found.meshes:
        lines += ["", *_mesh(mesh)]
    return "\n".join(lines)


def _mesh(mesh: Any) -> list[str]:
    waiting = f", {count(mesh.waiting_records, 'record')} waiting for their time" if mesh.waiting_records else ""
    coming = f", {mesh.fetching} on the way" if mesh.fetching else ""
    lines = [
        f"{mesh.name} ({short(mesh.mesh)}), here {machine(mesh.machine)}: {count(mesh.records, 'record')} "
        f"({size(mesh.record_bytes)}){waiting}; {count(mesh.blobs, 'blob')} ({size(mesh.blob_bytes)}){coming}",
        *_problems(mesh.problems),
    ]
    if mesh.machines:
        table = columns(
            ("MACHINE", "LINK", "ROUND TRIP", "IT LACKS", "WE LACK", "ADDRESS"),
            [
                (
                    machine(each.machine),
                    _link(each),
                    _round_trip(each),
                    _lag(each.they_lack_records, each.they_lack_bytes, each.lag_age),
                    _lag(each.we_lack_records, each.we_lack_bytes, each.lag_age),
                    each.address or "-",
                )
                for each in mesh.machines
            ],
        )
        lines += [f"  {line}" for line in table.splitlines()]
    else:
        lines.append("  No other machine yet: `tether invite` lets one in.")
    return lines


def _link(each: Any) -> str:
    if each.linked:
        return f"{each.path}, {span(each.since or 0)}"
    return f"{'blocked' if each.blocked else 'none'}, seen {ago(each.seen_age)}"


def _round_trip(each: Any) -> str:
    return "-" if each.round_trip is None else f"{milliseconds(each.round_trip)}, {ago(each.round_trip_age)}"


def _lag(records: int | None, amount: int | None, age: float | None) -> str:
    if records is None:
        return "not known"
    lack = f"{count(records, 'record')}, {size(amount or 0)}" if records else "nothing"
    return f"{lack}, {ago(age)}"


def _problems(found: Any) -> list[str]:
    return [f"{'Error' if each.level == 'error' else 'Warning'}: {each.what} {each.advice}".rstrip() for each in found]


def diagnosis(found: Any) -> str:
    lines = []
    for each in found.findings:
        sign = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[each.level]
        lines.append(f"{sign}  {each.what}")
        lines += [f"         {each.advice}"] if each.advice else []
    return "\n".join(lines)


def paths(found: Any) -> str:
    mapping = {
        "unknown": "how the router maps this machine is not known (that needs two servers)",
        "one for all": "the router maps this machine to one address for all",
        "one for each": "the router maps this machine to another address for each destination",
        "none": "this machine has the address itself that servers see",
    }[found.mapping]
    lines = [f"{found.name}: UDP port {found.port}; {mapping}" + (f"; mapped {found.mapped}." if found.mapped else ".")]
    for each in found.servers:
        state = (
            f"connected, sees us at {each.observed}" if each.connected else each.error or "not asked: all are linked"
        )
        lines.append(f"rendezvous {each.server}: {state.rstrip('.')}.")
    for each in found.members:
        lines += ["", *_path(each)]
    return "\n".join(lines)


def _path(each: Any) -> list[str]:
    if each.linked:
        return [f"{machine(each.machine)}: linked ({each.path}) at {each.address}."]
    looked = "looked for by rendezvous" if each.sought else "not looked for by rendezvous"
    lines = [f"{machine(each.machine)}: not linked, {looked}."]
    if each.tried_age is not None:
        lines.append(
            f"  tried {ago(each.tried_age)}, brought together by {each.server}; its router maps: {each.mapping}"
        )
        lines.append(f"  addresses: {', '.join(each.candidates) or 'none'}; open: {', '.join(each.opened) or 'none'}")
    return [*lines, *(f"  {text}" for text in (each.why, each.advice) if text)]


def digests(found: Any) -> str:
    return columns(("VIEW", "DIGEST"), [(each.view, each.digest) for each in found.views])


def collapsed(found: Any) -> str:
    return str(found.handle)


def put(found: Any) -> str:
    return str(found.handle)


def got(found: Any) -> str:
    what = f"{count(found.files, 'file')}, {size(found.size)}" if found.directory else size(found.size)
    rate = f", {size(found.moved / found.seconds)}/s" if found.moved and found.seconds >= 0.1 else ""
    moved = f"{size(found.moved)} moved in {span(found.seconds)}{rate}" if found.moved else "nothing had to move"
    return f"{found.path}: {what}, verified; {moved}."


def metadata(found: Any) -> str:
    rows = [
        ("handle", found.full),
        ("short", found.handle),
        ("kind", found.kind),
        ("table", found.table),
        ("size", f"{size(found.size)} ({found.size:,} bytes)"),
        *([("in all", f"{size(found.total)} ({found.total:,} bytes)")] if found.kind == "directory" else []),
        *([("name", found.name)] if found.name else []),
        *([("content type", found.content_type)] if found.content_type else []),
        ("tags", ", ".join(found.tags) or "-"),
        ("origin", f"{machine(found.origin)}, {ago(found.age)}"),
        ("announced by", machines(found.announced_by)),
        ("expires", "never" if found.ttl_left is None else f"in {span(found.ttl_left)}"),
        ("here", f"{'yes' if found.here else 'no'}{', pinned' if found.pinned else ''}"),
        ("held by", machines(found.held_by)),
        *((f"child {at}", child) for at, child in enumerate(found.children, 1)),
    ]
    return fields(rows)


def tables(found: Any) -> str:
    return columns(("TABLE", "HANDLES"), [(each.table, f"{each.handles:,}") for each in found.tables])


def snapshot(found: Any) -> str:
    lines = []
    for each in found.rows:
        tagged = f"  [{', '.join(each.tags)}]" if each.tags else ""
        lines.append(f"{each.handle}  {'-' if each.json is None else each.json}{tagged}")
    return "\n".join(lines)


def tags(found: Any) -> str:
    return columns(("TAG", "HANDLES"), [(each.tag, f"{each.handles:,}") for each in found.tags])


def tagged(found: Any) -> str:
    return f"{found.handle}: {', '.join(found.tags) or 'no tags'}"


def pinned(found: Any) -> str:
    return f"{found.handle} is {'kept here whatever happens' if found.pinned else 'kept here while there is room'}."


def collected(found: Any) -> str:
    verb = "would go" if found.dry_run else "went"
    lines = [f"{each.handle}  {size(each.size)}  {each.why}" for each in found.blobs]
    if len(found.blobs) < found.count:
        lines.append(f"and {count(found.count - len(found.blobs), 'blob')} more")
    return "\n".join([*lines, f"{count(found.count, 'blob')}, {size(found.size)}, {verb}; {size(found.left)} stay."])


def exported(found: Any) -> str:
    return f"{found.path}: {count(found.handles, 'handle')} of table {found.table}, {size(found.size)}."


def imported(found: Any) -> str:
    lines = [f"Refused, since its content is another: {each}" for each in found.refused]
    return "\n".join([*lines, f"Table {found.table}: {count(found.handles, 'handle')}, {found.new:,} of them new."])


def backed_up(found: Any) -> str:
    blobs = "with blobs" if found.blobs else "without blobs"
    return (
        f"{found.path}: {count(found.meshes, 'mesh')}, {blobs}, {size(found.size)}. "
        "It holds this machine's keys: keep it as you keep those."
    )


def configuration(found: Any) -> str:
    table = columns(("SETTING", "VALUE", "FROM"), [(each.key, each.value, each.source) for each in found.settings])
    return f"{found.path}\n\n{table}"


def reloaded(found: Any) -> str:
    if not found.changed:
        return "Nothing changed."
    later = f" At the next start only: {', '.join(found.restart)}." if found.restart else ""
    return f"Changed: {', '.join(found.changed)}.{later}"


def stopping(found: Any) -> str:
    return f"The daemon (pid {found.pid}) is stopping."


def nothing(found: Any) -> str:
    return ""
