"""`/health` and `/metrics` for whoever looks after the server: on loopback only, and without an address of any client."""

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import Framework
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from meshd.drivers.quic_door import NoPlace
from meshd.errors import RefusedError, UsageError
from meshd.model.address import Address
from meshd.wire.rendezvous import Refusal
from rendezvous.app import Server

STOP_SECONDS: Final = 1.0
"""Seconds that an answer under way may take once the server is to end."""


def check_loopback(address: Address) -> Address:
    """Give back an address of this machine only. Raises UsageError for any other: the figures are for nobody else."""
    try:
        is_loopback = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UsageError(
            f"Metrics are not served at {address}: that is no loopback address.",
            "Use 127.0.0.1:PORT, and a tunnel or a proxy that knows who may read them.",
        )
    return address


@asynccontextmanager
async def serving(server: Server, address: Address) -> AsyncIterator[None]:
    """Answer at this address while the block runs. Raises UsageError, and RefusedError when the port is taken."""
    config = Config()
    config.bind = [f"fd://{_bind(check_loopback(address))}"]
    config.accesslog = None
    config.errorlog = logging.getLogger(__name__)  # faults only: nothing sets it lower than warnings
    config.graceful_timeout = STOP_SECONDS
    ending = trio.Event()
    async with trio.open_nursery() as nursery:
        answers = cast(Framework, application(server))  # both are ASGI, each in its own words
        await nursery.start(partial(serve, answers, config, shutdown_trigger=ending.wait, mode="asgi"))
        try:
            yield
        finally:
            ending.set()


def _bind(address: Address) -> int:
    # Bound here and not by hypercorn, so that a port that is taken is told as one.
    bound = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise RefusedError(
            f"Metrics cannot be served at {address}: {error.strerror}.",
            "Name another port with --metrics HOST:PORT, or use --metrics off.",
        ) from error
    return bound.detach()


def application(server: Server) -> ASGIApp:
    """What answers: /health says that the event loop turns, /metrics is Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(Figures(server))
    ProcessCollector(registry=registry)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "full" if server.endpoint.door.full else "ok", "clients": server.board.clients})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return LocalOnly(Starlette(routes=[Route("/health", health), Route("/metrics", metrics)]))


class LocalOnly:
    """Refuses a request that names another host than this machine: a page in a browser here would send one, whose name was
    made to point at loopback (DNS rebinding)."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not _is_local(Request(scope).headers.get("host", "")):
            await PlainTextResponse("This is not the host that you named.\n", status_code=421)(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._inner(scope, receive, send)


def _is_local(host: str) -> bool:
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


class Figures(Collector):
    """What the server counts, read when it is asked for."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        board, counts, door = self._server.board, self._server.counts, self._server.endpoint.door
        for name, value, meaning in (
            ("clients", board.clients, "Clients that are connected"),
            ("numbers", board.numbers, "Numbers that are live"),
            ("waits", board.waits, "Waits under topics of members"),
        ):
            yield GaugeMetricFamily(f"rendezvous_{name}", meaning, value)
        for name, value, meaning in (
            ("matches", board.matches, "Pairs that were told of each other"),
            ("frames", counts.frames, "Frames from clients"),
            ("received_bytes", counts.bytes_in, "Bytes of clients' streams, without what QUIC adds"),
            ("sent_bytes", counts.bytes_out, "Bytes for clients' streams, without what QUIC adds"),
        ):
            yield CounterMetricFamily(f"rendezvous_{name}", meaning, value)
        refusals = CounterMetricFamily("rendezvous_refusals", "Questions that were refused", labels=["why"])
        for why in Refusal:
            refusals.add_metric([why.name.lower()], board.refusals[why])
        yield refusals
        newcomers = CounterMetricFamily(
            "rendezvous_handshakes_refused", "Datagrams of newcomers who found no place", labels=["why"]
        )
        for reason in NoPlace:
            newcomers.add_metric([reason.value], door.refused[reason])
        yield newcomers
        ended = CounterMetricFamily("rendezvous_let_go", "Clients that were ended here", labels=["why"])
        for cause, times in counts.let_go.items():
            ended.add_metric([cause], times)
        yield ended
