"""Bounds of fields, checked whenever a value is made: by our own code, and by the decoder for what a peer sent."""

from collections.abc import Callable, Sized
from typing import Any

import attrs

Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def size(least: int, most: int) -> Check:
    """Bytes, characters or elements from `least` to `most`."""

    def check(_: object, field: "attrs.Attribute[Sized]", value: Sized) -> None:
        if not least <= len(value) <= most:
            raise ValueError(f"{field.name} has length {len(value):,}; from {least:,} to {most:,} is allowed")

    return check


def number(least: int, most: int) -> Check:
    """An integer from `least` to `most`."""

    def check(_: object, field: "attrs.Attribute[int]", value: int) -> None:
        if not least <= value <= most:
            raise ValueError(f"{field.name} is {value:,}; from {least:,} to {most:,} is allowed")

    return check


def each(most: int, one: Check) -> Check:
    """At most `most` elements, and `one` for each of them."""
    count = size(0, most)

    def check(owner: object, field: "attrs.Attribute[Any]", value: Any) -> None:
        count(owner, field, value)
        for element in value:
            one(owner, field, element)

    return check


def optional(one: Check) -> Check:
    """None, or what `one` allows."""

    def check(owner: object, field: "attrs.Attribute[Any]", value: Any) -> None:
        if value is not None:
            one(owner, field, value)

    return check
