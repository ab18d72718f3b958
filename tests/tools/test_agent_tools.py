"""Tools for agents: what each asks of the daemon for what it is given, and what it makes of the answer. Without a daemon."""

import base64
import json
from typing import Any

import msgspec
import pytest

from meshd.errors import (
    ConnectionLostError,
    ExpiredError,
    NobodyFoundError,
    RefusedError,
    StoreError,
    TetherError,
    TimedOutError,
    UsageError,
)
from meshd.tools import agent_content, agent_mail, agent_presence, agent_threads, agent_tools
from meshd.tools.agent_mail import RECEIVE, SEND
from meshd.tools.agent_tool import DATA_NOTICE, Call, Outcome, Tool, ToolError, error_name
from meshd.tools.context import (
    AgentInfo,
    AgentRef,
    Agents,
    Attachment,
    Closed,
    Collapsed,
    Inbox,
    Line,
    MachineRef,
    Message,
    Metadata,
    Put,
    Recipient,
    Registered,
    Resolved,
    Row,
    Sent,
    Snapshot,
    TableCount,
    Tables,
    ThreadInfo,
    Threads,
    ThreadView,
    Waited,
)
from meshd.tools.kinds import HANDLE
from meshd.tools.operation import Audience, Operation
from meshd.tools.registry import BY_NAME

TOOLS = {each.name: each for each in agent_tools.chosen("all")}
every_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda each: each.name)

NODE = "ABCDEFGH" * 6 + "ABCD"
TOWER = MachineRef(NODE, "tower")
ANN = AgentRef("ann", TOWER, False)
MAIL = "h&l_messages_0123456789ab"
FULL = f"h&l_messages_{'0123456789ab' * 5}0123"
ORIGIN = {"machine": "tower", "node": "ABCDEFGH", "verified": True}
WHEN = "2026-11-01T10:00:00.000Z"


def line(**changes: Any) -> Line:
    found: dict[str, Any] = {
        "handle": MAIL,
        "full": FULL,
        "sender": ANN,
        "to": "codex",
        "subject": "build is red",
        "preview": "see...",
        "timestamp": WHEN,
        "age": 2.0,
        "read": False,
        "status": "open",
        "ticket": "",
        "thread": "",
        "tags": (),
        "attachments": 0,
        **changes,
    }
    return Line(**found)


def message(**changes: Any) -> Message:
    found: dict[str, Any] = {
        "handle": MAIL,
        "full": FULL,
        "sender": ANN,
        "origin": TOWER,
        "to": "codex",
        "subject": "build is red",
        "text": "see the log",
        "timestamp": WHEN,
        "age": 2.0,
        "status": "read",
        "reason": "",
        "ticket": "T-1",
        "thread": "",
        "in_reply_to": "",
        "tags": ("ci",),
        "attachments": (),
        "ttl_left": None,
        "recipients": (),
        **changes,
    }
    return Message(**found)


def sent(state: Any = "stored", **changes: Any) -> Sent:
    codex = AgentRef("codex", MachineRef(NODE, "desk"), True)
    recipients = (Recipient(codex, state, ""),)
    return Sent(
        **{
            "handle": MAIL,
            "full": FULL,
            "to": "codex",
            "sender": ANN,
            "subject": "s",
            "state": state,
            "recipients": recipients,
            "ttl": 60,
            "again": False,
            "note": "",
            **changes,
        }
    )


def played(name: str, given: dict[str, Any], *answers: Any) -> tuple[list[Call], Outcome]:
    """Carry out a tool, with these answers of the daemon's: its calls, and what came of it."""
    tool, calls = TOOLS[name], []
    plan = tool.plan(tool.check(given))
    waiting = list(answers)
    try:
        call = next(plan)
        while True:
            calls.append(call)
            answer = waiting.pop(0)
            call = plan.send(answer if isinstance(answer, bytes | None) else msgspec.to_builtins(answer))
    except StopIteration as done:
        assert not waiting
        return calls, done.value


def asked(calls: list[Call]) -> list[tuple[str, dict[str, Any]]]:
    return [(each.operation.name, each.arguments) for each in calls]


def refused(name: str, given: dict[str, Any], *answers: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        played(name, given, *answers)
    return caught.value


@every_tool
def test_a_tool_is_declared_whole(tool: Tool) -> None:
    assert tool.name.startswith("tether_") and 10 < len(tool.description) < 110 and tool.description.endswith(".")
    assert len({each.name for each in tool.arguments}) == len(tool.arguments)
    assert set(tool.annotations()) == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
    assert not (tool.read_only and tool.destructive)
    assert tool.claims in ("", *(each.name for each in tool.arguments))
    schema = tool.input_schema()
    assert all("type" in each for each in schema["properties"].values())
    json.dumps([schema, tool.output])


@every_tool
def test_what_is_required_is_missed_by_name(tool: Tool) -> None:
    for each in tool.arguments:
        if each.required:
            others = {other.name: None for other in tool.arguments if other.name != each.name}
            with pytest.raises(ToolError, match="needs the argument"):
                tool.check(others)
    with pytest.raises(ToolError, match="no argument 'surprise'"):
        tool.check({"surprise": 1})


def test_no_tool_is_for_people_only() -> None:
    """What decides who belongs to a mesh, or what a machine may do, is offered to no agent."""
    used = {
        value.name
        for module in (agent_mail, agent_content, agent_threads, agent_presence)
        for value in vars(module).values()
        if isinstance(value, Operation)
    }
    assert len(used) == 18 and all(BY_NAME[name].audience is Audience.ALL for name in used)


def test_the_sets_are_in_one_order() -> None:
    everything = [each.name for each in agent_tools.chosen("all")]
    assert everything == [each.name for each in agent_tools.chosen("presence, tables,threads")]
    assert [each.name for each in agent_tools.chosen("")] == everything[:11]
    with pytest.raises(UsageError, match="no set of tools 'board'"):
        agent_tools.chosen("threads,board")


@pytest.mark.parametrize(
    ("state", "status", "queued", "notified", "delivered"),
    [
        ("stored", "queued", True, False, False),
        ("replicated", "delivered", False, False, True),
        ("notified", "notified", False, True, True),
        ("read", "delivered", False, True, True),
        ("expired", "undeliverable", False, False, False),
        ("refused", "undeliverable", False, False, False),
    ],
)
def test_send(state: Any, status: str, queued: bool, notified: bool, delivered: bool) -> None:
    given = {"to": "codex", "subject": "s", "text": "t", "ticket_id": "T-1", "tags": ["ci"], "ttl_seconds": 60}
    calls, outcome = played("tether_send", given, sent(state, note="Nobody is known."))
    assert asked(calls) == [
        ("send", {"to": "codex", "subject": "s", "text": "t", "ticket": "T-1", "tags": ["ci"], "ttl": 60})
    ]
    assert outcome.value == {
        "handle": MAIL,
        "to": "codex",
        "status": status,
        "mechanism": "database",
        "prompt_state": None,
        "submitted": False,
        "confirmed": state == "read",
        "held": False,
        "detail": f"Nobody is known. codex {state}",
        "queued": queued,
        "notified": notified,
        "delivered": delivered,
        "subject": "s",
        "ttl_seconds": 60,
    }
    assert not outcome.texts


def test_send_with_what_is_new() -> None:
    given = {"to": "x", "subject": "", "text": "", "attach": ["hl_blob_0123456789ab"], "reply_to": MAIL, "key": "k"}
    ((_, arguments),) = asked(played("tether_send", given, sent())[0])
    assert (
        arguments["attach"] == ["h&l_blob_0123456789ab"] and arguments["reply_to"] == MAIL and arguments["key"] == "k"
    )
    assert "ttl_seconds" not in played("tether_send", given, sent())[1].value


def test_a_file_of_this_machine_cannot_be_attached() -> None:
    """An agent that may not read a file must not have the daemon read it, and send it away."""
    error = refused("tether_send", {"to": "x", "subject": "s", "text": "t", "attach": ["/etc/passwd"]})
    assert error.name == "E_HANDLE_INVALID"


@pytest.mark.parametrize(
    "given", [{"subject": "SECRET\n"}, {"subject": 7}, {"text": "SECRET \ud800"}, {"text": ["SECRET"]}]
)
def test_no_word_of_mail_is_in_an_error(given: dict[str, Any]) -> None:
    error = refused("tether_send", {"to": "x", "subject": "s", "text": "t", **given})
    assert error.name == "ValueError" and "SECRET" not in str(error) and next(iter(given)) in str(error)


def test_inbox() -> None:
    found = Inbox(
        AgentRef("codex", TOWER, False), 2, (line(), line(read=True, status="read", ticket="T-1")), "next", ()
    )
    calls, outcome = played("tether_inbox", {"include_closed": True}, found)
    assert asked(calls) == [("inbox", {"include_closed": True})]
    first = {
        "handle": MAIL,
        "from": "ann@tower",
        "subject": "build is red",
        "timestamp": WHEN,
        "preview": "see...",
        "read": False,
        "status": "open",
        "ticket_id": None,
        "origin": ORIGIN,
    }
    assert outcome.value == {
        "for_agent": "codex",
        "count": 2,
        "messages": [first, {**first, "read": True, "status": "read", "ticket_id": "T-1"}],
        "next": "next",
        "data_notice": DATA_NOTICE,
    }


def test_receive_gives_facts_and_body_apart() -> None:
    calls, outcome = played("tether_receive", {"handle": "hl_messages_0123456789ab"}, message())
    assert asked(calls) == [("receive", {"handle": MAIL})]
    facts, body = outcome.texts
    expected = {
        "handle": MAIL,
        "message": {
            "from": "ann@tower",
            "to": "codex",
            "subject": "build is red",
            "timestamp": WHEN,
            "created_at": WHEN,
            "status": "read",
            "ticket_id": "T-1",
            "tags": ["ci"],
            "origin": ORIGIN,
        },
        "data_notice": DATA_NOTICE,
    }
    assert json.loads(facts) == expected and body == "see the log"
    assert outcome.value == {**expected, "message": {**expected["message"], "text": body}}


def test_receive_tells_what_else_there_is() -> None:
    codex = AgentRef("codex", MachineRef(NODE, "desk"), True)
    nobody = AgentRef("", MachineRef(NODE, "attic"), False)
    found = message(
        thread="release",
        in_reply_to=FULL,
        reason="merged",
        ttl_left=60,
        attachments=(Attachment("h&l_blob_0123456789ab", "h&l_blob_full"),),
        recipients=(Recipient(codex, "refused", "too new"), Recipient(nobody, "stored", "")),
    )
    told = played("tether_receive", {"handle": MAIL}, found)[1].value["message"]
    assert told["thread"] == "release" and told["in_reply_to"] == FULL and told["reason"] == "merged"
    assert told["expires_in"] == 60 and told["attachments"] == ["h&l_blob_full"]
    assert told["recipients"] == [
        {"agent": "codex", "state": "refused", "why": "too new"},
        {"agent": "attic", "state": "stored"},
    ]


def test_close() -> None:
    calls, outcome = played(
        "tether_close", {"handle": MAIL, "reason": "merged"}, Closed(MAIL, "", "completed", "merged", 1)
    )
    assert asked(calls) == [("close", {"handle": MAIL, "status": "completed", "reason": "merged"})]
    assert outcome.value == {
        "status": "updated",
        "handle": MAIL,
        "ticket_id": None,
        "new_status": "completed",
        "updated": 1,
    }
    given = {"ticket_id": "T-1", "status": "stale"}
    calls, outcome = played("tether_close", given, Closed("", "T-1", "stale", "", 0))
    assert asked(calls) == [("close", {"ticket": "T-1", "status": "stale"})]
    assert outcome.value["ticket_id"] == "T-1" and outcome.value["handle"] is None and outcome.value["updated"] == 0
    for wrong in ({}, {"handle": MAIL, "ticket_id": "T-1"}):
        assert refused("tether_close", wrong).name == "ValueError"


@pytest.mark.parametrize("value", [{"b": 1, "a": ["é"]}, [1], "text", 7, None, False])
def test_collapse_and_resolve_any_json(value: Any) -> None:
    collapsed = Collapsed("h&l_plans_0123456789ab", "full", 7, True)
    calls, outcome = played("tether_collapse", {"table": "plans", "data": value, "tags": ["x"]}, collapsed)
    ((name, arguments),) = asked(calls)
    assert name == "collapse" and arguments["table"] == "plans" and arguments["tags"] == ["x"]
    assert json.loads(arguments["json"]) == value and "path" not in arguments
    assert outcome.value == {"handle": "h&l_plans_0123456789ab", "table": "plans"}
    resolved = Resolved("h&l_plans_0123456789ab", "full", arguments["json"], None, ())
    calls, outcome = played("tether_resolve", {"handle": "h&l_plans_0123456789ab"}, resolved)
    assert asked(calls) == [("resolve", {"handle": "h&l_plans_0123456789ab"})] and calls[0].most
    assert outcome.value == value and outcome.texts == (arguments["json"],)


def test_no_value_can_pass_for_mail() -> None:
    assert refused("tether_collapse", {"table": "messages", "data": {}}).name == "ValueError"


@pytest.mark.parametrize("table", ["Plans", "blob/../x", "", 7])
def test_a_table_is_a_name(table: Any) -> None:
    assert refused("tether_collapse", {"table": table, "data": {}}).name == "ValueError"


def test_what_json_cannot_say_is_refused() -> None:
    assert refused("tether_collapse", {"table": "inline", "data": float("nan")}).name == "ValueError"
    assert refused("tether_collapse", {"table": "inline", "data": {"x": "a" * 300_000}}).name == "ValueError"


def test_resolving_mail_gives_the_message() -> None:
    assert TOOLS["tether_resolve"].needs_agent({"handle": MAIL})
    assert not TOOLS["tether_resolve"].needs_agent({"handle": "h&l_inline_0123456789ab"})
    calls, outcome = played("tether_resolve", {"handle": MAIL}, message())
    assert calls[0].operation is RECEIVE and outcome.value["message"]["text"] == "see the log" and not outcome.texts


def test_blobs() -> None:
    data = bytes(range(256))
    text = base64.b64encode(data).decode()
    put = Put("h&l_blob_0123456789ab", "full", 256, 256, 0, "text/plain", True, ())
    given = {"bytes_b64": text, "content_type": "text/plain"}
    calls, outcome = played("tether_collapse_blob", given, put)
    assert asked(calls) == [("put", {"content_type": "text/plain", "name": "blob"})] and calls[0].content == data
    assert outcome.value == {"handle": "h&l_blob_0123456789ab"}
    calls, outcome = played("tether_resolve_blob", {"handle": "hl_blob_0123456789ab"}, known(size=256), data)
    assert asked(calls) == [("metadata", {"handle": "h&l_blob_0123456789ab"}), ("get", {"handle": "full"})]
    assert calls[1].picks_up and calls[1].most
    assert outcome.value == given


def known(**changes: Any) -> Metadata:
    found: dict[str, Any] = {
        "handle": "h&l_blob_0123456789ab",
        "full": "full",
        "kind": "blob",
        "table": "blob",
        "size": 1,
        "total": 1,
        "name": "blob",
        "content_type": "text/plain",
        "tags": ("x",),
        "origin": TOWER,
        "announced_by": (TOWER,),
        "age": 10.0,
        "ttl_left": 60.0,
        "here": True,
        "pinned": False,
        "held_by": (TOWER,),
        "children": (),
        **changes,
    }
    return Metadata(**found)


@pytest.mark.parametrize("text", ["a", "====", "YQ", "YQ==\n", "Y Q==", "é", 7, "YQ=="[::-1]])
def test_only_strict_base64_is_taken(text: Any) -> None:
    error = refused("tether_collapse_blob", {"bytes_b64": text, "content_type": "text/plain"})
    assert error.name == "ValueError" and "invalid bytes_b64" in str(error)


def test_large_blobs_are_for_files() -> None:
    size = 8 * (1 << 20)
    text = base64.b64encode(bytes(size + 3)).decode()
    error = refused("tether_collapse_blob", {"bytes_b64": text, "content_type": "text/plain"})
    assert "tether put" in str(error)
    error = refused("tether_resolve_blob", {"handle": "hl_blob_0123456789ab"}, known(size=size + 1))
    assert "tether get hl_blob_0123456789ab -o" in str(error)
    assert "directory" in str(
        refused("tether_resolve_blob", {"handle": "hl_blob_0123456789ab"}, known(kind="directory"))
    )


def test_trees() -> None:
    children = ["h&l_inline_0123456789ab", "hl_blob_ba9876543210"]
    tree = Collapsed("h&l_tree_0123456789ab", "full", 2, True)
    calls, outcome = played("tether_collapse_tree", {"handles": children}, tree)
    assert asked(calls) == [("tree", {"handles": [children[0], "h&l_blob_ba9876543210"]})]
    assert outcome.value == {"handle": "h&l_tree_0123456789ab"}
    resolved = Resolved(
        "h", "f", json.dumps([f"h&l_inline_{'0123456789ab' * 5}0123", f"h&l_blob_{'b' * 64}"]), None, ()
    )
    calls, outcome = played("tether_resolve_tree", {"handle": "h&l_tree_0123456789ab"}, resolved)
    assert asked(calls) == [("resolve", {"handle": "h&l_tree_0123456789ab", "shallow": True})]
    assert outcome.value == {"handles": ["h&l_inline_0123456789ab", "h&l_blob_bbbbbbbbbbbb"]}


@pytest.mark.parametrize(
    ("name", "handle"),
    [
        ("tether_resolve_blob", "h&l_tree_0123456789ab"),
        ("tether_resolve_tree", "h&l_blob_0123456789ab"),
        ("tether_resolve", "nonsense"),
        ("tether_receive", "h&l_messages_xyz"),
        ("tether_close", 7),
    ],
)
def test_a_wrong_handle_is_named_so(name: str, handle: Any) -> None:
    assert refused(name, {"handle": handle}).name == "E_HANDLE_INVALID"


def test_wait() -> None:
    found = Waited(AgentRef("codex", TOWER, False), 1, (line(),), "cursor")
    calls, outcome = played("tether_wait", {}, found)
    assert asked(calls) == [("wait", {"seconds": 50})] and calls[0].seconds == 50
    assert outcome.value["count"] == 1 and outcome.value["next"] == "cursor"
    assert outcome.value["messages"][0]["handle"] == MAIL and outcome.value["data_notice"] == DATA_NOTICE
    calls, outcome = played("tether_wait", {"seconds": 1, "after": "cursor"}, None)
    assert asked(calls) == [("wait", {"seconds": 1.0, "after": "cursor"})]
    assert outcome.value == {"count": 0, "messages": [], "next": "cursor", "data_notice": DATA_NOTICE}
    assert refused("tether_wait", {"seconds": 601}).name == "ValueError"


def test_threads() -> None:
    info = ThreadInfo("release", "what is left", "h&l_threads_0123456789ab", 2)
    calls, outcome = played("tether_thread_create", {"thread_name": "release"}, info)
    assert asked(calls) == [("thread_create", {"name": "release", "description": ""})]
    assert outcome.value == {"status": "created", "thread": "release", "handle": info.handle}
    given = {"thread": "release", "to": "x", "subject": "s", "text": "t"}
    calls, outcome = played("tether_thread_send", given, sent())
    assert asked(calls) == [("send", given)] and outcome.value["thread"] == "release"
    view = ThreadView("release", (line(subject="old"), line(subject="new")), ())
    calls, outcome = played("tether_thread_inbox", {"thread": "release"}, view)
    assert asked(calls) == [("thread", {"of": "release"})] and outcome.value["thread"] == "release"
    assert [each["subject"] for each in outcome.value["messages"]] == ["new", "old"] and outcome.value["count"] == 2
    assert outcome.value["messages"][0]["to"] == "codex"
    outcome = played("tether_threads", {}, Threads((info,)))[1]
    assert outcome.value["count"] == 1
    assert outcome.value["threads"] == [{"handle": info.handle, "name": "release", "description": "what is left"}]


def test_tables() -> None:
    assert played("tether_tables", {}, Tables("m", (TableCount("plans", 3),)))[1].value == {"tables": ["plans"]}
    first = Snapshot("plans", (Row("h&l_plans_a", "f", '{"a":1}', ()),), "more")
    last = Snapshot("plans", (Row("h&l_plans_b", "f", None, ()),), None)
    calls, outcome = played("tether_snapshot", {"table": "plans", "tag": "x"}, first, last)
    assert asked(calls) == [
        ("snapshot", {"table": "plans", "tag": "x"}),
        ("snapshot", {"table": "plans", "tag": "x", "after": "more"}),
    ]
    assert outcome.value == {"h&l_plans_a": {"a": 1}, "h&l_plans_b": None}
    long = Snapshot("plans", (Row("h&l_plans_a", "f", json.dumps("x" * (1 << 20)), ()),), None)
    assert "tether snapshot plans" in str(refused("tether_snapshot", {"table": "plans"}, long))


def test_metadata() -> None:
    found = played("tether_metadata", {"handle": "hl_blob_0123456789ab"}, known())[1].value
    assert found["table"] == "blob" and found["owner"] == "tower" and found["tags"] == ["x"]
    assert found["created_at"] < found["expires_at"] and found["created_at"].endswith("Z")
    calls, outcome = played("tether_metadata", {"handle": MAIL}, message())
    assert asked(calls) == [("receive", {"handle": MAIL, "peek": True})]
    assert outcome.value["read"] and outcome.value["ticket_id"] == "T-1" and outcome.value["expires_at"] is None
    assert set(found) == set(outcome.value)


def test_presence() -> None:
    info = AgentInfo(ANN, "Ann", ("a",), ("python",), "busy", "stale", 7.0, True)
    told = {
        "agent": "ann@tower",
        "presence": "stale",
        "age_seconds": 7.0,
        "label": "Ann",
        "tags": ["a"],
        "capabilities": ["python"],
        "status": "busy",
        "here": True,
    }
    calls, outcome = played("tether_who", {"to": "cap:python"}, Agents("m", (info,)))
    assert asked(calls) == [("who", {"to": "cap:python"})] and outcome.value["agents"] == [told]
    calls, outcome = played("tether_register", {"from_agent": "ann", "status": "busy"}, Registered(info, True))
    assert asked(calls) == [("agent_register", {"name": "ann", "bind": True, "status": "busy"})]
    assert outcome.value == told


@pytest.mark.parametrize(
    ("error", "call", "name"),
    [
        (NobodyFoundError("x"), Call(RECEIVE, {"handle": MAIL}), "E_HANDLE_UNRESOLVED"),
        (NobodyFoundError("x"), Call(BY_NAME["tree"], {"handles": [MAIL]}), "E_HANDLE_UNRESOLVED"),
        (NobodyFoundError("x"), Call(SEND, {"to": "x"}), "NobodyFoundError"),
        (ExpiredError("x"), Call(RECEIVE, {"handle": MAIL}), "E_HANDLE_EXPIRED"),
        (RefusedError("x"), Call(RECEIVE, {"handle": MAIL}), "E_ACCESS_DENIED"),
        (RefusedError("x"), Call(BY_NAME["resolve"], {"handle": MAIL}), "RefusedError"),
        (RefusedError("x"), Call(SEND, {"to": "x"}), "RefusedError"),
        (StoreError("x"), Call(RECEIVE, {"handle": MAIL}), "StoreError"),
        (UsageError("x"), None, "ValueError"),
        (TimedOutError("x"), None, "TimedOutError"),
        (ConnectionLostError("x"), None, "ConnectionLostError"),
        (TetherError("x"), None, "InternalError"),
        (ToolError("E_HANDLE_INVALID", "x"), None, "E_HANDLE_INVALID"),
    ],
)
def test_errors_have_the_names_that_programs_know(error: TetherError, call: Call | None, name: str) -> None:
    assert error_name(error, call) == name


def test_the_argument_kinds_are_the_registrys() -> None:
    """One place says what a handle, an agent, a tag is."""
    kinds = {id(argument.kind) for operation in BY_NAME.values() for argument in operation.arguments}
    own = [each.kind.name for tool in TOOLS.values() for each in tool.arguments if id(each.kind) not in kinds]
    assert sorted(set(own)) == ["BASE64", "JSON"]
    assert HANDLE.name == "HANDLE"
