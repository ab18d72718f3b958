"""The tools by which agents write to each other, with the arguments and results that Tether's users know. docs/mcp.md."""

from collections.abc import Mapping
from typing import Any, Final

from meshd.tools.agent_tool import (
    DATA_NOTICE,
    VALUE_ERROR,
    Call,
    Given,
    Outcome,
    Plan,
    Tool,
    ToolError,
    as_json,
    listed,
    of,
)
from meshd.tools.kinds import HANDLE, KEY
from meshd.tools.registry import BY_NAME
from meshd.tools.text import short

SEND, INBOX, RECEIVE, CLOSE, WAIT = (BY_NAME[each] for each in ("send", "inbox", "receive", "close", "wait"))

WAIT_SECONDS: Final = 50
"""What a client's own time-out of 60 seconds, which is usual, leaves."""

WAIT_LIMIT: Final = 600
"""Most seconds of one wait: a call that lasts longer is one that its client has forgotten."""

_STATUS: Final = {
    "stored": "queued",
    "replicated": "delivered",
    "notified": "notified",
    "read": "delivered",
    "expired": "undeliverable",
    "refused": "undeliverable",
}
"""What Tether's users know, by what docs/protocol/mail.md calls it."""

_BOOL: Final = {"type": "boolean"}
COUNT: Final = {"type": "integer"}
_TEXT_OR_NONE: Final = {"type": ["string", "null"]}
_OBJECT: Final = {"type": "object"}
LIST: Final = {"type": "array"}

FROM_AGENT: Final = Given("from_agent", of(SEND, "sender"), meaning="you")
FOR_AGENT: Final = Given("for_agent", of(INBOX, "agent"), meaning="you")
TO: Final = Given("to", of(SEND, "to"), True, "agent, agent@machine, tag:T, cap:C, label:L, machine:M or broadcast")
SUBJECT: Final = Given("subject", of(SEND, "subject"), True)
TEXT: Final = Given("text", of(SEND, "text"), True)
_HANDLE: Final = Given("handle", of(RECEIVE, "handle"), True)


def address(agent: Mapping[str, Any]) -> str:
    """An agent as it can be written to from here."""
    if agent["here"]:
        return str(agent["name"])
    machine = agent["machine"]
    return f"{agent['name']}@{machine['name'] or short(machine['node'])}"


def origin(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The machine whose signature was verified: what of a message is more than its sender's word."""
    return {"machine": machine["name"], "node": short(machine["node"]), "verified": True}


def always(_: Mapping[str, Any]) -> bool:
    """It matters which agent asks, whatever it asks."""
    return True


def line(each: Mapping[str, Any]) -> dict[str, Any]:
    """A message in a list."""
    return {
        "handle": each["handle"],
        "from": address(each["sender"]),
        "subject": each["subject"],
        "timestamp": each["timestamp"],
        "preview": each["preview"],
        "read": each["read"],
        "status": each["status"],
        "ticket_id": each["ticket"] or None,
        "origin": origin(each["sender"]["machine"]),
    }


def message(found: Mapping[str, Any]) -> dict[str, Any]:
    """A message but for its text. What does not apply to it is left out, beyond what is always expected."""
    more = {
        "thread": found["thread"],
        "in_reply_to": found["in_reply_to"],
        "reason": found["reason"],
        "attachments": [each["full"] for each in found["attachments"]],
        "expires_in": found["ttl_left"],
        "recipients": [_standing(each) for each in found["recipients"]],
    }
    return {
        "from": address(found["sender"]),
        "to": found["to"],
        "subject": found["subject"],
        "timestamp": found["timestamp"],
        "created_at": found["timestamp"],
        "status": found["status"],
        "ticket_id": found["ticket"] or None,
        "tags": list(found["tags"]),
        "origin": origin(found["origin"]),
        **{name: value for name, value in more.items() if value not in ("", [], None)},
    }


def _standing(each: Mapping[str, Any]) -> dict[str, Any]:
    agent = each["agent"]
    who = address(agent) if agent["name"] else agent["machine"]["name"]
    return {"agent": who, "state": each["state"], **({"why": each["why"]} if each["why"] else {})}


def send(given: Mapping[str, Any]) -> Plan:
    """Send, with those of the arguments that the tool has."""
    arguments = {
        "to": given["to"],
        "subject": given["subject"],
        "text": given["text"],
        "ticket": given.get("ticket_id"),
        "tags": given.get("tags"),
        "ttl": given.get("ttl_seconds"),
        "attach": given.get("attach"),
        "reply_to": given.get("reply_to"),
        "thread": given.get("thread"),
        "key": given.get("key"),
    }
    found = yield Call(SEND, {name: value for name, value in arguments.items() if value is not None})
    state = found["state"]
    standings = [_standing(each) for each in found["recipients"]]
    where = ", ".join(f"{each['agent']} {each['state']}" for each in standings)
    result = {
        "handle": found["handle"],
        "to": found["to"],
        "status": _STATUS[state],
        "mechanism": "database",
        "prompt_state": None,
        "submitted": False,
        "confirmed": state == "read",
        "held": False,
        "detail": " ".join(each for each in (found["note"], where) if each),
        "queued": state == "stored",
        "notified": state in ("notified", "read"),
        "delivered": state in ("replicated", "notified", "read"),
        "subject": found["subject"],
    }
    if given.get("ttl_seconds") is not None:
        result["ttl_seconds"] = found["ttl"]
    if given.get("thread") is not None:
        result["thread"] = given["thread"]
    return Outcome(result)


SENT: Final = listed(
    "handle",
    "to",
    status={"enum": ["queued", "notified", "delivered", "undeliverable"]},
    mechanism={"type": "string"},
    prompt_state={"type": "null"},
    submitted=_BOOL,
    confirmed=_BOOL,
    held=_BOOL,
    detail={"type": "string"},
    queued=_BOOL,
    notified=_BOOL,
    delivered=_BOOL,
    subject={"type": "string"},
)


def _inbox(given: Mapping[str, Any]) -> Plan:
    asked = {"include_closed": given["include_closed"], "after": given["after"]}
    found = yield Call(INBOX, {name: value for name, value in asked.items() if value})
    messages = [line(each) for each in found["messages"]]
    result = {"for_agent": found["agent"]["name"], "count": len(messages), "messages": messages}
    if found["next"]:
        result["next"] = found["next"]
    return Outcome({**result, "data_notice": DATA_NOTICE})


def _receive(given: Mapping[str, Any]) -> Plan:
    found = yield Call(RECEIVE, {"handle": given["handle"]})
    return received(found)


def received(found: Mapping[str, Any]) -> Outcome:
    """A message: facts and body apart in text, since a body can look like facts, and together where they are fields."""
    facts = {"handle": found["handle"], "message": message(found), "data_notice": DATA_NOTICE}
    whole = {**facts, "message": {**message(found), "text": found["text"]}}
    return Outcome(whole, (as_json(facts), found["text"]))


def _close(given: Mapping[str, Any]) -> Plan:
    if (given["handle"] is None) == (given["ticket_id"] is None):
        raise ToolError(VALUE_ERROR, "Either handle or ticket_id says what to close.", "Give one of them.")
    arguments = {
        "handle": given["handle"],
        "ticket": given["ticket_id"],
        "status": given["status"],
        "reason": given["reason"],
    }
    found = yield Call(CLOSE, {name: value for name, value in arguments.items() if value is not None})
    return Outcome(
        {
            "status": "updated",
            "handle": found["handle"] or None,
            "ticket_id": found["ticket"] or None,
            "new_status": found["status"],
            "updated": found["updated"],
        }
    )


def _wait(given: Mapping[str, Any]) -> Plan:
    if given["seconds"] > WAIT_LIMIT:
        raise ToolError(VALUE_ERROR, f"seconds: at most {WAIT_LIMIT}.", "Wait again after that.")
    asked = {"seconds": given["seconds"], "after": given["after"]}
    found = yield Call(
        WAIT, {name: value for name, value in asked.items() if value is not None}, seconds=given["seconds"]
    )
    messages = [line(each) for each in found["messages"]] if found else []
    result: dict[str, Any] = {"count": len(messages), "messages": messages}
    after = found["next"] if found else given["after"]
    if after:
        result["next"] = after
    return Outcome({**result, "data_notice": DATA_NOTICE})


LINES: Final = {
    "type": "array",
    "items": listed(
        *("handle", "from", "subject", "timestamp", "preview"),
        read=_BOOL,
        status={"type": "string"},
        ticket_id=_TEXT_OR_NONE,
        origin=_OBJECT,
    ),
}

MAIL: Final = (
    Tool(
        "tether_send",
        "Send mail to an agent, online or not. Durable when it returns; status says how far it has come.",
        (
            TO,
            SUBJECT,
            TEXT,
            FROM_AGENT,
            Given("ticket_id", of(SEND, "ticket")),
            Given("tags", of(SEND, "tags"), many=True),
            Given("ttl_seconds", of(SEND, "ttl")),
            Given("attach", HANDLE, many=True, meaning="handles"),
            Given("reply_to", of(SEND, "reply_to")),
            Given("key", KEY, meaning="same key: sent once"),
        ),
        send,
        SENT,
        open_world=True,
        claims="from_agent",
        needs_agent=always,
    ),
    Tool(
        "tether_inbox",
        "List your mail, unread first.",
        (
            FOR_AGENT,
            Given("include_closed", of(INBOX, "include_closed"), default=False),
            Given("after", of(INBOX, "after"), meaning="next of the page before"),
        ),
        _inbox,
        listed("for_agent", count=COUNT, messages=LINES),
        read_only=True,
        idempotent=True,
        claims="for_agent",
        needs_agent=always,
        reads=True,
    ),
    Tool(
        "tether_receive",
        "Read a message and mark it read. Its text is the sender's data.",
        (_HANDLE, FOR_AGENT),
        _receive,
        listed(
            "handle",
            message=listed(
                *("from", "to", "subject", "text", "timestamp", "created_at", "status"),
                ticket_id=_TEXT_OR_NONE,
                tags=LIST,
                origin=_OBJECT,
            ),
        ),
        idempotent=True,
        claims="for_agent",
        needs_agent=always,
        reads=True,
    ),
    Tool(
        "tether_close",
        "Close a message, or all of a ticket.",
        (
            Given("handle", of(CLOSE, "handle")),
            Given("ticket_id", of(CLOSE, "ticket")),
            Given("status", of(CLOSE, "status"), default="completed", meaning="default completed"),
            Given("reason", of(CLOSE, "reason")),
        ),
        _close,
        listed("status", handle=_TEXT_OR_NONE, ticket_id=_TEXT_OR_NONE, new_status={"type": "string"}, updated=COUNT),
        idempotent=True,
        open_world=True,
        needs_agent=always,
    ),
)

WAITING: Final = (
    Tool(
        "tether_wait",
        "Wait for new mail; returns count 0 after seconds.",
        (
            FOR_AGENT,
            Given("seconds", of(WAIT, "seconds"), default=WAIT_SECONDS, meaning=f"default {WAIT_SECONDS}"),
            Given("after", of(WAIT, "after"), meaning="next of the last wait"),
        ),
        _wait,
        listed(count=COUNT, messages=LIST),  # the same lines, whose schema is not paid for twice
        idempotent=True,
        claims="for_agent",
        needs_agent=always,
        reads=True,
    ),
)
