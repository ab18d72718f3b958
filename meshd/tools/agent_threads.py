"""The tools of named threads, with the arguments and results that Tether's users know. docs/mcp.md."""

from collections.abc import Mapping
from typing import Any, Final

from meshd.tools.agent_mail import (
    COUNT,
    FOR_AGENT,
    FROM_AGENT,
    LINES,
    LIST,
    SENT,
    SUBJECT,
    TEXT,
    TO,
    always,
    line,
    send,
)
from meshd.tools.agent_tool import DATA_NOTICE, Call, Given, Outcome, Plan, Tool, listed, of
from meshd.tools.kinds import NAME
from meshd.tools.registry import BY_NAME

OF, THREADS, CREATE, SEND = (BY_NAME[each] for each in ("thread", "threads", "thread_create", "send"))

_THREAD: Final = Given("thread", of(SEND, "thread"), True)


def _thread_create(given: Mapping[str, Any]) -> Plan:
    found = yield Call(CREATE, {"name": given["thread_name"], "description": given["description"] or ""})
    return Outcome({"status": "created", "thread": found["name"], "handle": found["handle"]})


def _thread_inbox(given: Mapping[str, Any]) -> Plan:
    found = yield Call(OF, {"of": given["thread"]})
    rows = [{**line(each), "to": each["to"]} for each in reversed(found["messages"])]
    return Outcome({"thread": found["name"], "count": len(rows), "messages": rows, "data_notice": DATA_NOTICE})


def _threads(_: Mapping[str, Any]) -> Plan:
    found = yield Call(THREADS, {})
    rows = [
        {"handle": each["handle"], "name": each["name"], "description": each["description"]}
        for each in found["threads"]
    ]
    return Outcome({"count": len(rows), "threads": rows, "data_notice": DATA_NOTICE})


THREAD_TOOLS: Final = (
    Tool(
        "tether_thread_create",
        "Name a thread, for all members.",
        (Given("thread_name", NAME, True), Given("description", of(CREATE, "description"))),
        _thread_create,
        listed("status", "thread", "handle"),
        idempotent=True,
        open_world=True,
    ),
    Tool(
        "tether_thread_send",
        "Send mail that belongs to a thread.",
        (_THREAD, TO, SUBJECT, TEXT, FROM_AGENT),
        send,
        SENT,
        open_world=True,
        claims="from_agent",
        needs_agent=always,
    ),
    Tool(
        "tether_thread_inbox",
        "List a thread's messages that you are party to, newest first.",
        (_THREAD, FOR_AGENT),
        _thread_inbox,
        listed("thread", count=COUNT, messages=LINES),
        read_only=True,
        idempotent=True,
        claims="for_agent",
        needs_agent=always,
        reads=True,
    ),
    Tool(
        "tether_threads",
        "List the named threads.",
        (),
        _threads,
        listed(count=COUNT, threads=LIST),
        read_only=True,
        idempotent=True,
    ),
)
