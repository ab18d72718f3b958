"""What a person sees of agents and mail. Texts come already made harmless for a terminal, and are shown as their sender's."""

from typing import Any

from meshd.tools.text import ago, columns, count, fenced, span


def address(found: Any) -> str:
    """An agent as it is written to."""
    return f"{found.name}@{found.machine.name or found.machine.node[:8]}"


def registered(found: Any) -> str:
    return f"{address(found.agent.agent)} takes mail{_said(found.agent)}."


def removed(found: Any) -> str:
    return f"{address(found.agent.agent)} is in no list any more."


def _said(each: Any) -> str:
    said = [
        *([f"called {each.label}"] if each.label else []),
        *([f"tags {', '.join(each.tags)}"] if each.tags else []),
        *([f"can {', '.join(each.capabilities)}"] if each.capabilities else []),
        *([each.status] if each.status else []),
    ]
    return f" ({'; '.join(said)})" if said else ""


def presence(each: Any) -> str:
    """Whether an agent is there, with the age of that knowledge."""
    if each.presence == "live":
        return "live"
    return (
        f"{each.presence}, since {span(each.age)}" if each.presence == "stale" else f"unreachable, seen {ago(each.age)}"
    )


def agents(found: Any) -> str:
    if not found.agents:
        return "No agent is known. One begins with its first call, or with: tether agent register NAME"
    table = columns(
        ("AGENT", "PRESENCE", "LABEL", "TAGS", "CAN", "STATUS"),
        [
            (
                address(each.agent),
                presence(each),
                each.label or "-",
                ", ".join(each.tags) or "-",
                ", ".join(each.capabilities) or "-",
                each.status or "-",
            )
            for each in found.agents
        ],
    )
    return f"{table}\n(and {found.left_out:,} more: ask for a tag, or machine:NAME)" if found.left_out else table


def _recipient(each: Any) -> str:
    why = f" ({each.why})" if each.why else ""
    return f"{address(each.agent) if each.agent.name else each.agent.machine.name}: {each.state}{why}"


def sent(found: Any) -> str:
    lines = [f"{found.handle}  to {found.to}: {found.state}{', sent before' if found.again else ''}"]
    if len(found.recipients) > 1 or found.state == "refused":
        lines += [f"  {_recipient(each)}" for each in found.recipients]
    return "\n".join([*lines, *([found.note] if found.note else [])])


def sent_list(found: Any) -> str:
    lines = []
    for each in found.messages:
        lines.append(f"{each.handle}  to {each.to}: {each.state}  {each.subject}")
        if len(each.recipients) > 1 or each.state == "refused":
            lines += [f"  {_recipient(recipient)}" for recipient in each.recipients]
    if found.next:
        lines.append(f"(more: --after {found.next})")
    return "\n".join(lines) or f"{address(found.agent)} has sent nothing."


def line(each: Any) -> str:
    """A message in a list, on one line."""
    mark = " " if each.read else "*"
    extra = [
        *([f"ticket {each.ticket}"] if each.ticket else []),
        *([f"thread {each.thread}"] if each.thread else []),
        *([", ".join(each.tags)] if each.tags else []),
        *([count(each.attachments, "attachment")] if each.attachments else []),
        *([each.status] if each.status not in ("open", "read") else []),
    ]
    more = f"  [{'; '.join(extra)}]" if extra else ""
    return f"{mark} {each.handle}  {ago(each.age)}  from {address(each.sender)}: {each.subject}{more}"


def inbox(found: Any) -> str:
    lines = [line(each) for each in found.messages]
    late = [f"{each.machine.name} {ago(each.age)}" for each in found.as_of if not each.linked]
    if late:
        lines.append(f"(not linked, last heard: {', '.join(late)})")
    if found.next:
        lines.append(f"(more: --after {found.next})")
    return "\n".join(lines or [f"No mail for {address(found.agent)}."])


def message(found: Any) -> str:
    facts = [
        f"Message {found.handle}, {ago(found.age)}, {found.status}",
        f"From {address(found.sender)}, signed by {found.origin.name} ({found.origin.node[:8]})",
        f"To {found.to}",
        f"Subject: {found.subject}",
        *([f"Ticket {found.ticket}"] if found.ticket else []),
        *([f"Thread {found.thread}"] if found.thread else []),
        *([f"In reply to {found.in_reply_to}"] if found.in_reply_to else []),
        *([f"Tags: {', '.join(found.tags)}"] if found.tags else []),
        *(f"Attached: {each.full}" for each in found.attachments),
        *([f"Closed because: {found.reason}"] if found.reason else []),
        *([f"Expires in {span(found.ttl_left)}"] if found.ttl_left is not None else []),
        *(f"  {_recipient(each)}" for each in found.recipients),
    ]
    return "\n".join([*facts, f"-- {found.notice} --", fenced(found.text)])


def closed(found: Any) -> str:
    what = found.handle or f"ticket {found.ticket}"
    return f"{what}: {found.status}, {count(found.updated, 'message')} closed."


def thread(found: Any) -> str:
    lines = [f"(answers {each}, which is not here)" for each in found.missing]
    return "\n".join([*lines, *(line(each) for each in found.messages)]) or "Nothing."


def threads(found: Any) -> str:
    table = columns(
        ("THREAD", "MESSAGES", "ABOUT"),
        [(each.name, f"{each.messages:,}", each.description or "-") for each in found.threads],
    )
    return f"{table}\n(and {found.left_out:,} more)" if found.left_out else table


def thread_created(found: Any) -> str:
    return f"Thread {found.name}."


def found(found: Any) -> str:
    return "\n".join(line(each) for each in found.messages) or "Nothing was found."


def waited(found: Any) -> str:
    return "\n".join(line(each) for each in found.messages)


def answered(found: Any) -> str:
    return message(found.reply)


def deliveries(found: Any) -> str:
    lines = ["Paused for all: nobody is told." if found.paused else "Not paused."]
    if found.agents:
        lines.append(
            columns(
                ("AGENT", "TOLD BY", "UNREAD", "LAST TOLD", "REMINDERS", "LAST TRY"),
                [
                    (
                        each.agent.name,
                        f"{each.method} {each.target}".rstrip() + (", paused" if each.paused else ""),
                        f"{each.unread:,}",
                        ago(each.last_told_age),
                        f"{each.reminders}",
                        each.last or "-",
                    )
                    for each in found.agents
                ],
            )
        )
    return "\n".join(lines)


def wake_tested(found: Any) -> str:
    return f"{address(found.agent)}: {found.what}"
