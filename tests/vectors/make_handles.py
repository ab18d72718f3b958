"""Writes handles.json: values and bytes with the handles that name them, and texts that are no JSON or no handles.

    python -m tests.vectors.make_handles

The canonical bytes are written here by hand, after RFC 8785, and not made by the program.
"""

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

FILE = Path(__file__).with_name("handles.json")

VALUES = [
    ("inline", '{"a":1}', ['{"a":1}', '{ "a" : 1 }', '{"a":1.0}', '{"a":10e-1}']),
    ("inline", '{"a":[true,null],"b":"x"}', ['{"b":"x","a":[true,null]}', '{"a":[true,null],\n"b":"\\u0078"}']),
    ("inline", "{}", ["{}", " { } "]),
    ("inline", '""', ['""']),
    ("inline", "0", ["0", "-0", "0.0"]),
    ("notes", '{"text":"hello"}', ['{"text":"hello"}']),
    ("inline", '"é€😀"', ['"é€😀"', '"\\u00e9\\u20ac\\ud83d\\ude00"']),
    ("inline", '{"\U0001f600":1,"\ufb33":2}', ['{"\ufb33":2,"\U0001f600":1}']),  # sorted by UTF-16, section 3.2.3
    ("inline", '"\\b\\t\\n\\f\\r\\"\\\\/\\u001f\x7f"', ['"\\b\\t\\n\\f\\r\\"\\\\\\/\\u001f\\u007f"']),
    ("inline", "[1e+21,1e-7,333333333.3333333,4.5]", ["[1E21,0.0000001,333333333.33333329,4.50]"]),
    # A tree is the list of its children's short handles.
    (
        "tree",
        '["h&l_inline_000000000000","h&l_blob_111111111111"]',
        ['["h&l_inline_000000000000", "h&l_blob_111111111111"]'],
    ),
]
# Two values with one short form, found once by a birthday search: BLAKE3 of `{"pair":N}` for N from 0, 40 seconds.
PAIR = ['{"pair":19379879}', '{"pair":22504007}']
BLOBS = [b"", b"hello\n", bytes(range(256))]
NOT_JSON = [
    "",
    "{",
    '{"a":1,"a":1}',
    '{"a":1,"a":2}',
    '[{"x":{"a":1,"\\u0061":2}}]',
    "NaN",
    "[Infinity]",
    "-Infinity",
    "'a'",
    "[1,]",
    "01",
    "1 2",
    '"\n"',
    "1e999",
    "9007199254740993",  # no double has this value: two readers could disagree
    '"\\ud800"',  # half of a surrogate pair: no UTF-8 has it
]
NOT_HANDLES = [
    "",
    "h&l_inline_",
    "h&l_inline_0123456789a",
    "h&l_inline_0123456789abc",
    "h&l_inline_0123456789AB",
    "h&l__0123456789ab",
    "h&l_In_0123456789ab",
    "h&l_a b_0123456789ab",
    "h&l_../x_0123456789ab",
    "h&l_" + "x" * 33 + "_0123456789ab",
    "h&&l_inline_0123456789ab",
    "l_inline_0123456789ab",
    "h&l_inline_0123456789ab_",
    "h&l-inline-0123456789ab",
    "h&l_inline_" + "0" * 63,
    "h&l_inline_" + "0" * 65,
    "h&l_inline_0123456789\u0430b",  # a Cyrillic letter
]


def build() -> dict[str, Any]:
    values = []
    for table, text, written in VALUES:
        digest = blake3(text.encode()).hexdigest()
        handle = f"h&l_{table}_{digest[:12]}"
        values.append({"table": table, "written": written, "canonical": text, "digest": digest, "handle": handle})
    blobs = []
    for data in BLOBS:
        digest = blake3(data).hexdigest()
        blobs.append({"bytes": data.hex(), "digest": digest, "handle": f"h&l_blob_{digest[:12]}"})
    pair = [{"canonical": text, "digest": blake3(text.encode()).hexdigest()} for text in PAIR]
    return {"values": values, "blobs": blobs, "one short form": pair, "not JSON": NOT_JSON, "not handles": NOT_HANDLES}


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
