"""The MCP server of one session: the SDK of MCP around a desk (mcp_calls.py). Nothing else imports that SDK.

It answers the revision of 2026-07-28 and, to clients that begin with `initialize`, those before; the first request decides.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from meshd import __version__
from meshd.client.session import open_session
from meshd.surfaces.mcp_calls import Desk
from meshd.surfaces.program import said
from meshd.surfaces.stdin_lines import LINE_LIMIT, lines
from meshd.tools.agent_tool import INTERNAL_ERROR, Tool, ToolError, as_json, error_body
from meshd.tools.agent_tools import INSTRUCTIONS

_LIST_FRESH_MS: Final = 3_600_000
"""How long a client may keep the list of tools: it is the same as long as the process lives."""


def listing(tools: Sequence[Tool]) -> list[types.Tool]:
    """The tools as MCP has them."""
    return [
        types.Tool(
            name=each.name,
            description=each.description,
            input_schema=each.input_schema(),
            output_schema=each.output,
            annotations=types.ToolAnnotations.model_validate(each.annotations(), by_name=False),
        )
        for each in tools
    ]


def server(desk: Desk, tools: Sequence[Tool]) -> Server[Any]:
    """The server for one session."""
    by_name = {each.name: each for each in tools}

    async def list_tools(
        _: ServerRequestContext[Any], __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=listing(tools))

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=f"There is no tool {params.name!r:.50}.")
        return await called(desk, tool, params.arguments or {}, context.protocol_version)

    return Server(
        "tether",
        version=__version__,
        title="Tether Mesh",
        instructions=INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(ttl_ms=_LIST_FRESH_MS)},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def called(desk: Desk, tool: Tool, arguments: dict[str, Any], version: str) -> types.CallToolResult:
    """One call of a tool. What it refuses, and a fault in it, are results too, so that a model can do something about it."""
    try:
        outcome = await desk.carry_out(tool, arguments)
    except ToolError as error:
        return _failed(error)
    except Exception as error:  # a fault of ours: its words may hold somebody's mail, so only its kind is told
        said(f"a fault in {tool.name}: {type(error).__name__}")
        return _failed(
            ToolError(INTERNAL_ERROR, "This server failed: a fault in it.", "Are it and the daemon of one version?")
        )
    texts = outcome.texts or (as_json(outcome.value),)
    # Before 2026-07-28 structured content is an object or nothing; the text has the value in any case.
    structured = outcome.value if isinstance(outcome.value, dict) or version in MODERN_PROTOCOL_VERSIONS else None
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=each) for each in texts], structured_content=structured
    )


def _failed(error: ToolError) -> types.CallToolResult:
    # No structured content: clients check that against the schema of the result, which an error is not.
    text = as_json(error_body(error))
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


class _Input:
    """Standard input for the SDK, which would read lines of any length."""

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in lines():
            if line is None:
                said(f"a line of more than {LINE_LIMIT:,} bytes was passed over")
            else:
                yield line.decode(errors="replace")


async def serve(state: str | None, tools: Sequence[Tool], agent: str, start: bool) -> None:
    """Serve the client at standard input and output until it hangs up."""
    async with open_session(state) as session, stdio_server(stdin=cast(Any, _Input())) as (incoming, outgoing):
        made = server(Desk(session, agent, start=start), tools)
        await made.run(incoming, outgoing, made.create_initialization_options())
