"""Answers to be shown and sent: an instance of any class of the context, from its annotations alone."""

import types
import typing
from typing import Any

import attrs

from meshd import notices
from meshd.tools import context, diagnosis

SHORT = {"handle": "h&l_blob_0123456789ab", "full": f"h&l_blob_{'0123456789ab' * 5}0123"}


def result_class(name: str) -> Any:
    """The class that an operation names."""
    return getattr(context, name, None) or getattr(diagnosis, name)


def sample(kind: Any, *, text: str = "text", empty: bool = False, name: str = "") -> Any:
    """A value of this type. `empty` leaves out what may be left out."""
    if kind is str:
        return SHORT.get(name, text)
    if kind in (int, float, bool):
        return kind(3)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return inner[0]
    if origin in (types.UnionType, typing.Union):
        choices = [each for each in inner if each is not type(None)]
        return None if empty and type(None) in inner else sample(choices[0], text=text, empty=empty, name=name)
    if origin is tuple:
        return () if empty else (sample(inner[0], text=text, empty=empty),) * 2
    hints = typing.get_type_hints(kind)
    return kind(
        **{each.name: sample(hints[each.name], text=text, empty=empty, name=each.name) for each in attrs.fields(kind)}
    )


NOTICES = typing.get_args(notices.Notice)
"""Every class of notice."""
