"""The tools by which agents name content and get it back: values, blobs, trees, tables. docs/mcp.md."""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from meshd.errors import UsageError
from meshd.model.handle import BLOB, MESSAGES, TREE, Handle
from meshd.tools.agent_mail import FOR_AGENT, RECEIVE, received
from meshd.tools.agent_tool import (
    HANDLE_INVALID,
    VALUE_ERROR,
    Call,
    Given,
    Outcome,
    Plan,
    Tool,
    ToolError,
    listed,
    of,
)
from meshd.tools.kinds import JSON, Kind
from meshd.tools.registry import BY_NAME

COLLAPSE, RESOLVE, PUT, GET, TREE_OF = (BY_NAME[each] for each in ("collapse", "resolve", "put", "get", "tree"))
METADATA, TABLES, SNAPSHOT = (BY_NAME[each] for each in ("metadata", "tables", "snapshot"))

BLOB_LIMIT: Final = 8 << 20
"""Most bytes of a blob that goes through a tool, either way: base64 of more is for no model, and a file for all else."""

VALUE_LIMIT: Final = 1 << 20
"""Most bytes of JSON of one result."""

SNAPSHOT_LIMIT: Final = 1000
"""Most rows of one result."""

_TEXT_OR_NONE: Final = {"type": ["string", "null"]}


def _to_json(value: Any) -> str:
    try:
        return str(JSON.check(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))
    except (ValueError, RecursionError):
        raise UsageError("This is no value of JSON.") from None


_VALUE: Final = Kind("JSON", {"type": "object"}, _to_json)
"""Any JSON is taken. Objects are usual, and hosts of some models accept no argument without a type."""


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise UsageError("invalid bytes_b64")
    if len(value) > (BLOB_LIMIT + 2) // 3 * 4:
        raise UsageError(
            f"A tool takes {BLOB_LIMIT:,} bytes.", "Put what is larger on the command line: tether put PATH"
        )
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("invalid bytes_b64") from None


_BASE64: Final = Kind("BASE64", {"type": "string"}, _bytes)

_HANDLE: Final = Given("handle", of(RESOLVE, "handle"), True)


def _is_message(given: Mapping[str, Any]) -> bool:
    return Handle.parse(given["handle"]).table == MESSAGES


def _only(given: Mapping[str, Any], table: str) -> None:
    if Handle.parse(given["handle"]).table != table:
        raise ToolError(HANDLE_INVALID, f"This is not a handle of a {table}: those begin with h&l_{table}_.")


def _collapse(given: Mapping[str, Any]) -> Plan:
    if given["table"] == MESSAGES:
        raise ToolError(VALUE_ERROR, "The table messages is that of mail.", "Choose another, or send it.")
    arguments = {"json": given["data"], "table": given["table"]}
    found = yield Call(COLLAPSE, {**arguments, **({"tags": given["tags"]} if given["tags"] else {})})
    return Outcome({"handle": found["handle"], "table": given["table"]})


def _resolve(given: Mapping[str, Any]) -> Plan:
    if _is_message(given):
        found = yield Call(RECEIVE, {"handle": given["handle"]})
        # One text, as of every other handle: the message as a value.
        return Outcome(received(found).value)
    found = yield Call(RESOLVE, {"handle": given["handle"]}, most=VALUE_LIMIT)
    return Outcome(json.loads(found["json"]), (found["json"],))


def _collapse_blob(given: Mapping[str, Any]) -> Plan:
    found = yield Call(PUT, {"content_type": given["content_type"], "name": "blob"}, content=given["bytes_b64"])
    return Outcome({"handle": found["handle"]})


def _resolve_blob(given: Mapping[str, Any]) -> Plan:
    _only(given, BLOB)
    known = yield Call(METADATA, {"handle": given["handle"]})
    advice = f"Write it to a file: tether get {Handle.parse(given['handle']).typed} -o PATH"
    if known["kind"] == "directory":
        raise ToolError(VALUE_ERROR, "This is a directory.", advice)
    if known["size"] > BLOB_LIMIT:
        raise ToolError(VALUE_ERROR, f"It has {known['size']:,} bytes; a tool gives {BLOB_LIMIT:,}.", advice)
    data = yield Call(GET, {"handle": known["full"]}, picks_up=True, most=BLOB_LIMIT)
    return Outcome({"bytes_b64": base64.b64encode(data).decode(), "content_type": known["content_type"]})


def _collapse_tree(given: Mapping[str, Any]) -> Plan:
    found = yield Call(TREE_OF, {"handles": given["handles"]})
    return Outcome({"handle": found["handle"]})


def _resolve_tree(given: Mapping[str, Any]) -> Plan:
    _only(given, TREE)
    found = yield Call(RESOLVE, {"handle": given["handle"], "shallow": True}, most=VALUE_LIMIT)
    return Outcome({"handles": [Handle.parse(each).short for each in json.loads(found["json"])]})


def _when(seconds: float) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _metadata(given: Mapping[str, Any]) -> Plan:
    if _is_message(given):
        found = yield Call(RECEIVE, {"handle": given["handle"], "peek": True})
        left = found["ttl_left"]
        return Outcome(
            {
                "handle": found["handle"],
                "table": MESSAGES,
                "created_at": found["timestamp"],
                "expires_at": None if left is None else _when(left),
                "owner": found["to"],
                "tags": list(found["tags"]),
                "status": found["status"],
                "ticket_id": found["ticket"] or None,
                "read": found["status"] == "read",
                "read_at": None,
            }
        )
    found = yield Call(METADATA, {"handle": given["handle"]})
    left = found["ttl_left"]
    return Outcome(
        {
            "handle": found["handle"],
            "table": found["table"],
            "created_at": _when(-found["age"]),
            "expires_at": None if left is None else _when(left),
            "owner": found["origin"]["name"],
            "tags": list(found["tags"]),
            "status": None,
            "ticket_id": None,
            "read": None,
            "read_at": None,
        }
    )


def _tables(_: Mapping[str, Any]) -> Plan:
    found = yield Call(TABLES, {})
    return Outcome({"tables": [each["table"] for each in found["tables"]]})


def _snapshot(given: Mapping[str, Any]) -> Plan:
    asked = {"table": given["table"], **({"tag": given["tag"]} if given["tag"] else {})}
    values: dict[str, Any] = {}
    size, after = 0, None
    while True:
        page = yield Call(SNAPSHOT, {**asked, **({"after": after} if after else {})})
        for row in page["rows"]:
            values[row["handle"]] = None if row["json"] is None else json.loads(row["json"])
            size += len((row["json"] or "").encode())
        after = page["next"]
        if size > VALUE_LIMIT or len(values) > SNAPSHOT_LIMIT:
            raise ToolError(
                VALUE_ERROR,
                f"This table has more than the {SNAPSHOT_LIMIT:,} rows, or {VALUE_LIMIT:,} bytes, of a tool's result.",
                f"Choose by a tag, or on the command line: tether snapshot {given['table']}",
            )
        if not after:
            return Outcome(values)


CONTENT: Final = (
    Tool(
        "tether_collapse",
        "Give JSON a handle, the same on every machine.",
        (
            Given("table", of(COLLAPSE, "table"), True, "inline, or a table's name"),
            Given("data", _VALUE, True, nullable=True),
            Given("tags", of(COLLAPSE, "tags"), many=True),
        ),
        _collapse,
        listed("handle", "table"),
        idempotent=True,
    ),
    Tool(
        "tether_resolve",
        "The JSON that a handle means; for a message's handle, the message.",
        (_HANDLE, FOR_AGENT),
        _resolve,
        None,
        idempotent=True,
        claims="for_agent",
        needs_agent=_is_message,
        reads=True,
    ),
    Tool(
        "tether_collapse_blob",
        "Give bytes a handle.",
        (Given("bytes_b64", _BASE64, True), Given("content_type", of(PUT, "content_type"), True)),
        _collapse_blob,
        listed("handle"),
        idempotent=True,
    ),
    Tool(
        "tether_resolve_blob",
        "The bytes that a blob's handle means.",
        (_HANDLE,),
        _resolve_blob,
        listed("bytes_b64", "content_type"),
        read_only=True,
        idempotent=True,
    ),
    Tool(
        "tether_collapse_tree",
        "Give an ordered list of handles a handle.",
        (Given("handles", of(RESOLVE, "handle"), True, many=True),),
        _collapse_tree,
        listed("handle"),
        idempotent=True,
    ),
    Tool(
        "tether_resolve_tree",
        "The handles in a tree, in order.",
        (_HANDLE,),
        _resolve_tree,
        listed(handles={"type": "array", "items": {"type": "string"}}),
        read_only=True,
        idempotent=True,
    ),
)

TABLE_TOOLS: Final = (
    Tool(
        "tether_metadata",
        "What is known of a handle: age, owner, tags, expiry.",
        (_HANDLE, FOR_AGENT),
        _metadata,
        listed(
            "handle",
            "table",
            "created_at",
            expires_at=_TEXT_OR_NONE,
            owner={"type": "string"},
            tags={"type": "array", "items": {"type": "string"}},
        ),
        read_only=True,
        idempotent=True,
        claims="for_agent",
        needs_agent=_is_message,
        reads=True,
    ),
    Tool(
        "tether_tables",
        "List the tables.",
        (),
        _tables,
        listed(tables={"type": "array", "items": {"type": "string"}}),
        read_only=True,
        idempotent=True,
    ),
    Tool(
        "tether_snapshot",
        "All handles of a table with their values.",
        (Given("table", of(SNAPSHOT, "table"), True), Given("tag", of(SNAPSHOT, "tag"))),
        _snapshot,
        {"type": "object"},
        read_only=True,
        idempotent=True,
    ),
)
