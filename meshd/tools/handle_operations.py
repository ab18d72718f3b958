"""Operations on handles: values, blobs, trees, tags."""

from typing import Any, Final

from meshd.errors import EXIT_NOBODY_FOUND, EXIT_REFUSED
from meshd.tools import shown
from meshd.tools.kinds import (
    CONTENT_TYPE,
    COUNT,
    CURSOR,
    FILE_NAME,
    HANDLE,
    INPUT,
    JSON,
    MACHINE,
    OUTPUT,
    SECONDS,
    TABLE,
    TAG,
    TTL,
)
from meshd.tools.mesh_operations import WHICH_MESH
from meshd.tools.operation import Argument, Audience, Example, Operation, Tells, flag

_HANDLE: Final = Argument("handle", HANDLE, "h&l_… in quotes, or hl_…; 12 or all 64 digits.", positional=True)
_TAGS: Final = Argument("tags", TAG, "Put this tag on it. Repeatable.", many=True, options=("--tag",))
_TTL: Final = Argument("ttl", TTL, "Forget it everywhere after this time: 90, 15m, 12h, 7d. 0 is never.", default=0)
_WAIT: Final = Argument(
    "wait",
    SECONDS,
    "How long to wait for content that is elsewhere while nothing arrives.",
    30.0,
    options=("--wait",),
)
_OVERWRITE: Final = flag("overwrite", "Replace what is there.")


def _ends_incomplete(found: Any) -> int:
    return EXIT_NOBODY_FOUND if found.missing else 0


def _ends_refused(found: Any) -> int:
    return EXIT_REFUSED if found.refused else 0


OPERATIONS: Final = (
    Operation(
        name="collapse",
        words=("collapse",),
        summary="Give a JSON value a handle, the same on every machine, and replicate it to all members.",
        details="The handle is a hash of the value alone (RFC 8785): the order of keys and white space make no difference.",
        arguments=(
            WHICH_MESH,
            Argument(
                "path",
                INPUT,
                "A file of JSON; - is standard input. [default: -]",
                None,
                positional=True,
                command_default="-",
                instead_of="json",
            ),
            Argument("json", JSON, "The value itself.", default=None, options=("--value",)),
            Argument("table", TABLE, "The table that it belongs to.", default="inline"),
            _TAGS,
            _TTL,
        ),
        result="Collapsed",
        show=shown.collapsed,
        errors=("NobodyFoundError", "StoreError"),
        examples=(
            Example("echo '{\"a\":1}' | tether collapse", "prints h&l_inline_…"),
            Example("tether collapse plan.json --table plans --tag draft", "a file, in a table"),
        ),
    ),
    Operation(
        name="resolve",
        words=("resolve",),
        summary="Print what a handle means: its JSON, or for a tree the list of what its children mean.",
        details="Standard output gets canonical JSON (RFC 8785) and nothing else. A blob is for `tether get`.",
        arguments=(_HANDLE, WHICH_MESH, flag("shallow", "Of a tree, list the children's handles only."), _WAIT),
        result="Resolved",
        show=shown.nothing,
        payload=True,
        errors=("NobodyFoundError", "TimedOutError", "RefusedError"),
        examples=(Example("tether resolve hl_inline_0123456789ab", "hl_ needs no quotes in a shell"),),
        within=None,
        exit_code=_ends_incomplete,
    ),
    Operation(
        name="put",
        words=("put",),
        summary="Give a file, a directory or bytes a handle, and print it.",
        details="Members learn of it at once. Its content moves when it is asked for, pinned, or meant for a machine.",
        arguments=(
            WHICH_MESH,
            Argument("path", INPUT, "A file or directory; - is standard input.", positional=True),
            Argument(
                "machines",
                MACHINE,
                "Have this machine fetch and pin it at once. Repeatable.",
                many=True,
                options=("--for",),
            ),
            Argument("name", FILE_NAME, "What to call it. [default: the last part of PATH]", default=None),
            Argument("content_type", CONTENT_TYPE, "What it is, e.g. text/plain. [default: by its name]", default=None),
            _TAGS,
            _TTL,
            Argument("wait", SECONDS, "How long to wait until those machines say that they hold it.", default=0.0),
        ),
        result="Put",
        show=shown.put,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(
            Example("tether put build/", "a directory"),
            Example("tether put dump.sql --for tower --wait 600", "have it stored elsewhere, and know it"),
        ),
        within=None,
    ),
    Operation(
        name="get",
        words=("get",),
        summary="Write a blob to a file, or a directory to a directory, from all members that hold it.",
        details="Every chunk and the whole are verified. An interrupted run goes on where it was.",
        arguments=(
            _HANDLE,
            WHICH_MESH,
            Argument("out", OUTPUT, "Where to write it; - is standard output.", options=("--out", "-o")),
            _OVERWRITE,
            Argument(
                "accept",
                FILE_NAME,
                "Take entries of this name, like .git, that programs obey. Repeatable.",
                many=True,
            ),
            _WAIT,
        ),
        result="Got",
        show=shown.got,
        tells=Tells.PROGRESS,
        errors=("NobodyFoundError", "TimedOutError", "RefusedError", "StoreError"),
        examples=(
            Example("tether get hl_blob_0123456789ab -o dump.sql", "a file"),
            Example("tether get hl_blob_0123456789ab -o - | psql", "through a pipe"),
        ),
        within=None,
    ),
    Operation(
        name="tree",
        words=("tree",),
        summary="Give an ordered list of handles a handle of its own.",
        arguments=(
            WHICH_MESH,
            Argument("handles", HANDLE, "The children, in order.", many=True, positional=True),
            _TAGS,
            _TTL,
        ),
        result="Collapsed",
        show=shown.collapsed,
        errors=("NobodyFoundError", "RefusedError"),
        examples=(Example("tether tree hl_inline_0123456789ab hl_blob_ba9876543210", "prints h&l_tree_…"),),
    ),
    Operation(
        name="metadata",
        words=("metadata",),
        summary="Show what is known about a handle: who announced it, who holds it, its tags, when it expires.",
        arguments=(_HANDLE, WHICH_MESH),
        result="Metadata",
        show=shown.metadata,
        errors=("NobodyFoundError", "RefusedError"),
        examples=(Example("tether metadata hl_blob_0123456789ab", "all of it"),),
    ),
    Operation(
        name="tables",
        words=("tables",),
        summary="List the tables, and how many handles each has.",
        arguments=(WHICH_MESH,),
        result="Tables",
        show=shown.tables,
        errors=("NobodyFoundError",),
        examples=(Example("tether tables", "blobs and trees are tables too"),),
    ),
    Operation(
        name="snapshot",
        words=("snapshot",),
        summary="List the handles of a table with their values.",
        arguments=(
            WHICH_MESH,
            Argument("table", TABLE, "The table.", positional=True),
            Argument("tag", TAG, "Only what has exactly this tag.", default=None),
            Argument("limit", COUNT, "Rows of one page; the command line asks for all pages.", default=200),
            Argument("after", CURSOR, "Go on where a page ended: its `next`.", default=None),
        ),
        result="Snapshot",
        show=shown.snapshot,
        paged="rows",
        errors=("NobodyFoundError",),
        examples=(Example("tether snapshot plans --tag draft", "exactly that tag"),),
    ),
    Operation(
        name="tags",
        words=("tags",),
        summary="List all tags, and how many handles have each.",
        arguments=(WHICH_MESH,),
        result="Tags",
        show=shown.tags,
        errors=("NobodyFoundError",),
        examples=(Example("tether tags", "then: tether snapshot TABLE --tag TAG"),),
    ),
    Operation(
        name="tag",
        words=("tag",),
        summary="Put tags on a handle, or take them off.",
        arguments=(
            _HANDLE,
            WHICH_MESH,
            Argument("add", TAG, "Put this tag on. Repeatable.", many=True),
            Argument("remove", TAG, "Take this tag off. Repeatable.", many=True),
        ),
        result="Tagged",
        show=shown.tagged,
        errors=("NobodyFoundError",),
        examples=(Example("tether tag hl_inline_0123456789ab --add final --remove draft", "on every machine"),),
    ),
    Operation(
        name="pin",
        words=("pin",),
        summary="Fetch a handle's content here and keep it whatever happens, with all below it.",
        arguments=(_HANDLE, WHICH_MESH, _WAIT),
        result="Pinned",
        show=shown.pinned,
        tells=Tells.PROGRESS,
        errors=("NobodyFoundError", "TimedOutError", "StoreError"),
        examples=(Example("tether pin hl_blob_0123456789ab", "a copy of our own"),),
        within=None,
    ),
    Operation(
        name="unpin",
        words=("unpin",),
        summary="Keep a handle's content only while there is room.",
        arguments=(_HANDLE, WHICH_MESH),
        result="Pinned",
        show=shown.pinned,
        errors=("NobodyFoundError",),
        examples=(Example("tether unpin hl_blob_0123456789ab", "`tether gc` may take it"),),
    ),
    Operation(
        name="gc",
        words=("gc",),
        summary="Delete blobs here that nobody pinned and that nothing names.",
        arguments=(WHICH_MESH, flag("dry_run", "Only show what would go.")),
        result="Collected",
        show=shown.collected,
        errors=("StoreError",),
        examples=(Example("tether gc --dry-run", "what would go, and why"),),
        audience=Audience.PEOPLE,
        within=None,
    ),
    Operation(
        name="export_table",
        words=("export",),
        summary="Write all values of a table to a file.",
        arguments=(
            WHICH_MESH,
            Argument("table", TABLE, "The table.", positional=True),
            Argument("out", OUTPUT, "The file to write; - is standard output.", options=("--out", "-o")),
            _OVERWRITE,
        ),
        result="Exported",
        show=shown.exported,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(Example("tether export plans -o plans.json", "for a machine that no network reaches"),),
        within=None,
    ),
    Operation(
        name="import_table",
        words=("import",),
        summary="Take in what `tether export` wrote; every value is hashed again, and refused where the hash differs.",
        arguments=(WHICH_MESH, Argument("path", INPUT, "The file; - is standard input.", positional=True)),
        result="Imported",
        show=shown.imported,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(Example("tether import plans.json", "from that machine"),),
        within=None,
        exit_code=_ends_refused,
    ),
)
