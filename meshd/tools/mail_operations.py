"""Operations on agents and their mail, and on how a reader is told."""

from typing import Final

from meshd.tools import shown_mail as shown
from meshd.tools.kinds import (
    AGENT,
    ATTACHMENT,
    COUNT,
    CURSOR,
    HANDLE,
    KEY,
    LABEL,
    MAIL_TEXT,
    NAME,
    PANE,
    SECONDS,
    SUBJECT,
    TAG,
    TARGET,
    TEXT,
    TTL,
    WORD,
)
from meshd.tools.mesh_operations import WHICH_MESH
from meshd.tools.operation import Argument, Audience, Example, Operation, flag

ENV_AGENT: Final = "TETHER_AGENT_ID"

_TO: Final = Argument(
    "to",
    TARGET,
    "name, name@machine, tag:T, cap:C, label:L, machine:M, or broadcast.",
    positional=True,
)
_SUBJECT: Final = Argument("subject", SUBJECT, "One line.", positional=True)
_TEXT: Final = Argument(
    "text", MAIL_TEXT, "The message; - is standard input. [default: -]", positional=True, command_default="-"
)
_SENDER: Final = Argument(
    "sender",
    AGENT,
    "Which agent of this machine sends. [env: TETHER_AGENT_ID; default: user]",
    default=None,
    options=("--from",),
    env=ENV_AGENT,
)
_READER: Final = Argument(
    "agent",
    AGENT,
    "Whose mail: an agent of this machine. [env: TETHER_AGENT_ID; default: user]",
    default=None,
    options=("--for",),
    env=ENV_AGENT,
)
_ATTACH: Final = Argument(
    "attach", ATTACHMENT, "A file, directory or handle to go with it. Repeatable.", many=True, options=("--attach",)
)
_TAGS: Final = Argument("tags", TAG, "Put this tag on it. Repeatable.", many=True, options=("--tag",))
_TTL: Final = Argument("ttl", TTL, "It expires everywhere after this time: 90, 15m, 12h, 7d. 0 is never.", default=0)
_TICKET: Final = Argument("ticket", WORD, "The ticket that it belongs to.", default=None)
_THREAD: Final = Argument("thread", NAME, "The named thread that it belongs to.", default=None)
_REPLY: Final = Argument("reply_to", HANDLE, "The message that it answers.", default=None, options=("--reply-to",))
_KEY: Final = Argument("key", KEY, "Sent again with this key, it is not sent twice.", default=None)
_MESSAGE: Final = Argument("handle", HANDLE, "h&l_messages_… in quotes, or hl_messages_….", positional=True)
_LIMIT: Final = Argument("limit", COUNT, "How many at most at once.", default=50)
_AFTER: Final = Argument("after", CURSOR, "Where the page before ended.", default=None)
_WHOSE: Final = Argument("agent", AGENT, "An agent of this machine.", positional=True)

OPERATIONS: Final = (
    Operation(
        name="agent_register",
        words=("agent", "register"),
        summary="Make an agent of this machine known, or change what it says of itself.",
        details="What is left out stays as it was. A program that keeps its connection open is bound to the agent.",
        arguments=(
            WHICH_MESH,
            Argument("name", AGENT, "What it is called here.", positional=True),
            Argument("label", LABEL, "What people call it.", default=None),
            Argument("tags", TAG, "A tag. Repeatable; replaces those there were.", many=True, options=("--tag",)),
            Argument(
                "capabilities",
                TAG,
                "What it can do. Repeatable; replaces those there were.",
                many=True,
                options=("--cap",),
            ),
            Argument("status", TEXT, "What it does, such as busy.", default=None),
            flag("bind", "Bind this connection to it, for as long as it stays.")._replace(programs_only=True),
        ),
        result="Registered",
        show=shown.registered,
        errors=("RefusedError", "NobodyFoundError", "StoreError"),
        examples=(Example("tether agent register codex --tag reviewer --cap python", "who takes mail here"),),
        session=True,
    ),
    Operation(
        name="agent_remove",
        words=("agent", "remove"),
        summary="Forget an agent of this machine. Its mail stays.",
        arguments=(WHICH_MESH, _WHOSE),
        result="Registered",
        show=shown.removed,
        errors=("RefusedError", "NobodyFoundError", "StoreError"),
        examples=(Example("tether agent remove codex", "it is in no list any more"),),
        audience=Audience.PEOPLE,
        session=True,
    ),
    Operation(
        name="who",
        words=("who",),
        summary="Show the agents of all machines, whether each is there, and since when that is known.",
        arguments=(
            WHICH_MESH,
            Argument(
                "to", TARGET, "Only those whom this target means.", default=None, positional=True, command_default=""
            ),
        ),
        result="Agents",
        show=shown.agents,
        errors=("NobodyFoundError",),
        examples=(
            Example("tether who", "everybody"),
            Example("tether who cap:python", "who could take it"),
        ),
    ),
    Operation(
        name="send",
        words=("send",),
        summary="Send a message to an agent, or to several, online or not.",
        details=(
            "It is on this machine's disk when this returns; the answer says how far it has come. Text for one machine is "
            "sealed for it. An attached file is as readable to all members as any handle."
        ),
        arguments=(
            WHICH_MESH,
            _TO,
            _SUBJECT,
            _TEXT,
            _SENDER,
            _ATTACH,
            _TAGS,
            _TTL,
            _TICKET,
            _THREAD,
            _REPLY,
            _KEY,
            Argument("wait", SECONDS, "While readers' machines are linked, how long to wait until it is there.", 1.0),
        ),
        result="Sent",
        show=shown.sent,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(
            Example('tether send codex@tower "build is red" "see the log" --attach build.log', "with a file"),
            Example("git diff | tether send cap:review review", "from standard input, to all who can"),
        ),
        session=True,
    ),
    Operation(
        name="sent",
        words=("sent",),
        summary="Show what an agent has sent, and how far each message has come.",
        arguments=(
            WHICH_MESH,
            Argument("handle", HANDLE, "Only this message.", default=None, positional=True, command_default=""),
            _SENDER._replace(name="agent", meaning="Whose. [env: TETHER_AGENT_ID; default: user]"),
            _LIMIT,
            _AFTER,
        ),
        result="SentList",
        show=shown.sent_list,
        errors=("NobodyFoundError",),
        examples=(Example("tether sent hl_messages_0123456789ab", "where is it now"),),
        session=True,
    ),
    Operation(
        name="inbox",
        words=("inbox",),
        summary="List an agent's mail: unread first, then newest first.",
        arguments=(
            WHICH_MESH,
            _READER,
            flag("unread", "Only what was not read."),
            flag("include_closed", "Also what was closed.", "--all"),
            Argument("tag", TAG, "Only what bears this tag.", default=None),
            _LIMIT,
            _AFTER,
        ),
        result="Inbox",
        show=shown.inbox,
        errors=("RefusedError",),
        examples=(Example("tether inbox --for codex --unread --json", "for a hook"),),
        session=True,
    ),
    Operation(
        name="receive",
        words=("receive",),
        summary="Print a message, and mark it read.",
        details="What is printed is its sender's text: data, whatever it says. The sender can see that it was read.",
        arguments=(_MESSAGE, WHICH_MESH, _READER, flag("peek", "Do not mark it read.")),
        result="Message",
        show=shown.message,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(Example("tether receive hl_messages_0123456789ab --for codex", "read it"),),
        session=True,
    ),
    Operation(
        name="close",
        words=("close",),
        summary="Close a message, or all of a ticket, also what comes later.",
        arguments=(
            WHICH_MESH,
            Argument("handle", HANDLE, "The message.", default=None, positional=True, command_default=""),
            _TICKET._replace(meaning="All messages of this ticket."),
            Argument("status", WORD, "completed, superseded, cancelled, closed, or a word of yours.", "completed"),
            Argument("reason", TEXT, "Why, for who is party to it.", default=""),
            _READER,
        ),
        result="Closed",
        show=shown.closed,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(
            Example("tether close hl_messages_0123456789ab --reason merged", "one message"),
            Example("tether close --ticket T-17 --status cancelled", "a ticket"),
        ),
        session=True,
    ),
    Operation(
        name="thread",
        words=("thread",),
        summary="Show a named thread, or what a message answers and what answered it, oldest first.",
        arguments=(
            WHICH_MESH,
            Argument("of", TARGET, "A thread's name, or the handle of a message.", positional=True),
            _READER,
        ),
        result="ThreadView",
        show=shown.thread,
        errors=("NobodyFoundError", "RefusedError"),
        examples=(Example("tether thread release-2", "a named one"),),
        session=True,
    ),
    Operation(
        name="threads",
        words=("threads",),
        summary="List the named threads.",
        arguments=(WHICH_MESH,),
        result="Threads",
        show=shown.threads,
        examples=(Example("tether threads", "all that are known here"),),
    ),
    Operation(
        name="thread_create",
        words=("thread-create",),
        summary="Give a thread a name and a description, for all members.",
        arguments=(
            WHICH_MESH,
            Argument("name", NAME, "What it is called.", positional=True),
            Argument("description", TEXT, "What it is about.", default=""),
        ),
        result="ThreadInfo",
        show=shown.thread_created,
        errors=("StoreError",),
        examples=(Example('tether thread-create release-2 --description "what is left"', "before the first message"),),
    ),
    Operation(
        name="search",
        words=("search",),
        summary="Find messages that an agent has sent or been sent, by their words.",
        arguments=(
            WHICH_MESH,
            Argument("query", TEXT, "Words that all stand in it.", positional=True),
            _READER,
            _LIMIT,
        ),
        result="SearchResult",
        show=shown.found,
        errors=("RefusedError",),
        examples=(Example('tether search "flaky test"', "in subjects and texts"),),
        session=True,
    ),
    Operation(
        name="wait",
        words=("wait",),
        summary="Wait until an agent has unread mail. Exit code 0 when there is, 7 when the time is over.",
        arguments=(
            WHICH_MESH,
            _READER,
            Argument("seconds", SECONDS, "How long.", 3600.0, options=("--timeout",)),
            Argument("after", CURSOR, "Only what came after this: `next` of the wait before.", default=None),
        ),
        result="Waited",
        show=shown.waited,
        errors=("TimedOutError", "RefusedError"),
        examples=(Example("tether wait --for codex --timeout 300", "in a background shell"),),
        within=None,
        session=True,
    ),
    Operation(
        name="ask",
        words=("ask",),
        summary="Send a message and wait for the reply to it.",
        details="Refused at once where nobody it is for can be reached now, unless --queue.",
        arguments=(
            WHICH_MESH,
            _TO,
            _SUBJECT,
            _TEXT,
            _SENDER,
            _ATTACH,
            Argument("seconds", SECONDS, "How long to wait for the reply.", 600.0, options=("--timeout",)),
            flag("queue", "Also when the reader cannot be reached now."),
            _KEY,
        ),
        result="Answered",
        show=shown.answered,
        errors=("NobodyFoundError", "TimedOutError", "RefusedError", "StoreError"),
        examples=(Example('tether ask codex@tower "which branch?" "of the fix" --timeout 120', "and read the answer"),),
        within=None,
        session=True,
    ),
    Operation(
        name="delivery_status",
        words=("delivery", "status"),
        summary="Show how agents of this machine are told of mail.",
        arguments=(WHICH_MESH, _WHOSE._replace(default=None, command_default="")),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError",),
        examples=(Example("tether delivery status", "all agents here"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_pause",
        words=("delivery", "pause"),
        summary="Tell nobody of mail, or not this agent, until it is resumed. Mail arrives all the same.",
        arguments=(WHICH_MESH, _WHOSE._replace(default=None, command_default="")),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError", "StoreError"),
        examples=(Example("tether delivery pause", "quiet, at once"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_resume",
        words=("delivery", "resume"),
        summary="Tell of mail again.",
        arguments=(WHICH_MESH, _WHOSE._replace(default=None, command_default="")),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError", "StoreError"),
        examples=(Example("tether delivery resume codex", "this agent"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_test",
        words=("delivery", "test"),
        summary="Say what a wake of this agent would do now; with --now, do it.",
        arguments=(WHICH_MESH, _WHOSE, flag("now", "Really tell it, with a handle of zeros.")),
        result="WakeTested",
        show=shown.wake_tested,
        errors=("NobodyFoundError", "RefusedError"),
        examples=(Example("tether delivery test codex", "is its pane idle"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_tmux",
        words=("delivery", "tmux"),
        summary="Tell this agent by typing one fixed line into a tmux pane when it is idle. Run it inside that pane.",
        details="The line holds a handle and nothing of a message. Off unless this was run.",
        arguments=(
            WHICH_MESH,
            _WHOSE,
            Argument("socket", PANE, "The tmux server. [env: TMUX]", default=None, env="TMUX"),
            Argument("pane", PANE, "The pane. [env: TMUX_PANE]", default=None, env="TMUX_PANE"),
        ),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(Example("tether delivery tmux codex", "this pane is codex's"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_exec",
        words=("delivery", "exec"),
        summary="Tell this agent by running a program, without a shell; the handle is in TETHER_HANDLE.",
        arguments=(
            WHICH_MESH,
            _WHOSE,
            Argument("argv", PANE, "The program and its arguments, as they are.", many=True, positional=True),
        ),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError", "RefusedError", "StoreError"),
        examples=(Example("tether delivery exec codex -- notify-send mail", "a desktop notice"),),
        audience=Audience.PEOPLE,
    ),
    Operation(
        name="delivery_off",
        words=("delivery", "off"),
        summary="Tell this agent of mail no more; `tether wait` still works.",
        arguments=(WHICH_MESH, _WHOSE),
        result="Deliveries",
        show=shown.deliveries,
        errors=("NobodyFoundError", "StoreError"),
        examples=(Example("tether delivery off codex", "as it was at first"),),
        audience=Audience.PEOPLE,
    ),
)
