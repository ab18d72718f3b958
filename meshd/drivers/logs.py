"""The daemon's log: one line an event on standard error, as text or as JSON, where a service manager collects it.

Names that peers chose are made harmless before a line is written; secrets are in no notice and so in no line.
"""

import contextlib
import logging
import sys
from typing import Final, Literal

import attrs
import structlog

from meshd import notices
from meshd.model.text import harmless

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

_LEVELS: Final[dict[type[notices.Notice], str]] = {
    notices.RecordsStored: "debug",
    notices.BlobProgress: "debug",
    notices.ForkFound: "warning",
    notices.GenerationOpened: "warning",
    notices.Quarantined: "warning",
    notices.BlobFailed: "warning",
    notices.Damaged: "error",
    notices.TrySpent: "warning",
}
"""What is not listed is told as information."""


def configure(form: Format, level: Level) -> None:
    """Send the log to standard error. Called at start, and again when the settings are read anew."""
    last = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _make_harmless,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def log_notice(notice: notices.Notice) -> None:
    """Write one line for a notice."""
    fields = attrs.asdict(notice)
    level = fields.pop("level", None) or _LEVELS.get(type(notice), "info")
    # Whoever read the log is gone, or its disk is full: no reason for a daemon to end.
    with contextlib.suppress(OSError):
        getattr(structlog.get_logger(), level)(notices.event_name(notice), **fields)


def _make_harmless(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {
        key: harmless(value, keep="\n") if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }
