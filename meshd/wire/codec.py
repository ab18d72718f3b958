"""MessagePack bodies to values and back, by msgspec straight into attrs classes, which checks types and bounds."""

from typing import TypeVar

import msgspec

from meshd.errors import RemoteProtocolError

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}


def encode_body(message: object) -> bytes:
    """The MessagePack of one message of wire/messages.py."""
    return _encoder.encode(message)


def decode_body(kind: type[T], body: bytes) -> T:
    """The message of class `kind` in `body`. Raises RemoteProtocolError for anything else, however it is broken."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message = decoder.decode(body)
    # RecursionError: deep nesting where an unknown field is skipped. UnicodeDecodeError is a ValueError.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"The other side sent a broken {kind.__name__} message: {error}") from error
    assert isinstance(message, kind)
    return message
