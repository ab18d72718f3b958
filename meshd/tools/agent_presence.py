"""The tools by which agents say who they are and see who there is. docs/mcp.md."""

from collections.abc import Mapping
from typing import Any, Final

from meshd.tools.agent_mail import COUNT, FROM_AGENT, LIST, address, always
from meshd.tools.agent_tool import DATA_NOTICE, Call, Given, Outcome, Plan, Tool, listed, of
from meshd.tools.registry import BY_NAME

WHO, REGISTER = BY_NAME["who"], BY_NAME["agent_register"]


def _agent(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "agent": address(each["agent"]),
        "presence": each["presence"],
        "age_seconds": each["age"],
        "label": each["label"],
        "tags": list(each["tags"]),
        "capabilities": list(each["capabilities"]),
        "status": each["status"],
        "here": each["here"],
    }


def _who(given: Mapping[str, Any]) -> Plan:
    found = yield Call(WHO, {"to": given["to"]} if given["to"] else {})
    rows = [_agent(each) for each in found["agents"]]
    return Outcome({"count": len(rows), "agents": rows, "data_notice": DATA_NOTICE})


def _register(given: Mapping[str, Any]) -> Plan:
    said = {name: given[name] for name in ("label", "tags", "capabilities", "status") if given[name] is not None}
    found = yield Call(REGISTER, {"name": given["from_agent"], "bind": True, **said})
    return Outcome(_agent(found["agent"]))


PRESENCE_TOOLS: Final = (
    Tool(
        "tether_who",
        "List agents of all machines, and whether each is there.",
        (Given("to", of(WHO, "to"), meaning="only whom this target means"),),
        _who,
        listed(count=COUNT, agents=LIST),
        read_only=True,
        idempotent=True,
    ),
    Tool(
        "tether_register",
        "Say who you are and what you can do.",
        (
            FROM_AGENT,
            Given("label", of(REGISTER, "label")),
            Given("tags", of(REGISTER, "tags"), many=True),
            Given("capabilities", of(REGISTER, "capabilities"), many=True),
            Given("status", of(REGISTER, "status")),
        ),
        _register,
        listed("agent", "presence"),
        idempotent=True,
        open_world=True,
        claims="from_agent",
        needs_agent=always,
    ),
)
