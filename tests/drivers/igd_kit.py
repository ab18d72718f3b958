"""A router that opens ports, as far as UPnP-IGD needs one: SSDP over UDP, a description and SOAP over HTTP, on loopback."""

import importlib.util
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from meshd.drivers.ssdp import Router

needs_library = pytest.mark.skipif(importlib.util.find_spec("miniupnpc") is None, reason="miniupnpc is not installed")

PUBLIC = "192.88.99.1"
"""A public address that nobody has (RFC 7526). Nothing is sent there."""

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<controlURL>%s</controlURL><eventSubURL>/event</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""


@attrs.define
class Entry:
    client: str
    port: int
    lease: int
    name: str = "Tether"


@attrs.define(eq=False)
class FakeRouter:
    """What it has opened, what it was asked, and its manners. Change them while it runs."""

    mappings: dict[int, Entry] = attrs.field(factory=dict)
    asked: list[tuple[str, dict[str, str]]] = attrs.field(factory=list)
    searches: int = 0
    external: str = PUBLIC
    only_for_ever: int = 0
    """The error that a lease is answered with."""
    tells_entries: bool = True
    gives_to_nobody: bool = False
    """Says yes, and leaves a port to who has it."""
    refusal: int = 0
    most: int = 604_800
    """Longest lease."""
    control: str = "/control"
    raw: bytes | None = None
    """What every request is answered with instead."""
    endless: bool = False
    """Whether that is repeated until the other side has gone."""
    location: str = ""
    """Where the description is said to be, if not where it is."""
    answers: bytes | None = None
    """What every search is answered with instead."""
    host: str = "127.0.0.1"
    ssdp: tuple[str, int] = ("", 0)
    http: int = 0

    @property
    def as_found(self) -> Router:
        return Router(f"http://{self.host}:{self.http}/desc.xml", self.host)

    def requests(self, action: str) -> list[dict[str, str]]:
        return [arguments for name, arguments in self.asked if name == action]

    async def answer_searches(self, sock: trio.socket.SocketType) -> None:
        while True:
            data, sender = await sock.recvfrom(2048)
            self.searches += 1
            wanted = re.search(rb"ST: (\S+)", data)
            location = self.location or self.as_found.url
            answer = (
                f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\nLocation: {location}\r\nSERVER: fake\r\n"
                f"ST: {wanted[1].decode()}\r\nUSN: uuid:1::{wanted[1].decode()}\r\n\r\n"
            )
            await sock.sendto(answer.encode() if self.answers is None else self.answers, sender)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                data = b""
                while (head := data.partition(b"\r\n\r\n"))[1] == b"":
                    data += await stream.receive_some(4096)
                length = int((re.search(rb"(?i)content-length: *(\d+)", head[0]) or [0, 0])[1])
                body = head[2]
                while len(body) < length:
                    body += await stream.receive_some(4096)
                if self.raw is not None:
                    await stream.send_all(self.raw)
                    while self.endless:
                        await stream.send_all(self.raw)
                    return
                if head[0].startswith(b"GET"):
                    status, content = 200, DESCRIPTION % self.control
                else:
                    status, content = self._act(body.decode())
                await stream.send_all(
                    f"HTTP/1.1 {status} OK\r\nContent-Type: text/xml\r\nContent-Length: {len(content.encode())}\r\n"
                    f"Connection: close\r\n\r\n{content}".encode()
                )
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it has heard enough

    def _act(self, body: str) -> tuple[int, str]:
        action = re.search(r"<u:(\w+)", body)[1]
        given = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        self.asked.append((action, given))
        result = getattr(self, f"_{action}", lambda given: 401)(given)
        if isinstance(result, int):
            fault = f"<errorCode>{result}</errorCode><errorDescription>No</errorDescription>"
            inner = (
                "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError "
                f'xmlns="urn:schemas-upnp-org:control-1-0">{fault}</UPnPError></detail></s:Fault>'
            )
        else:
            values = "".join(f"<{name}>{value}</{name}>" for name, value in result.items())
            inner = f'<u:{action}Response xmlns:u="{SERVICE}">{values}</u:{action}Response>'
        envelope = (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
            f"<s:Body>{inner}</s:Body></s:Envelope>"
        )
        return (500 if isinstance(result, int) else 200), envelope

    def _GetExternalIPAddress(self, given: dict[str, str]) -> int | dict[str, str]:  # noqa: N802
        return {"NewExternalIPAddress": self.external}

    def _GetSpecificPortMappingEntry(self, given: dict[str, str]) -> int | dict[str, str]:  # noqa: N802
        entry = self.mappings.get(int(given["NewExternalPort"]))
        if entry is None or not self.tells_entries:
            return 714
        return {
            "NewInternalPort": str(entry.port),
            "NewInternalClient": entry.client,
            "NewEnabled": "1",
            "NewPortMappingDescription": entry.name,
            "NewLeaseDuration": str(entry.lease),
        }

    def _AddPortMapping(self, given: dict[str, str]) -> int | dict[str, str]:  # noqa: N802
        public, lease = int(given["NewExternalPort"]), int(given["NewLeaseDuration"])
        entry = Entry(given["NewInternalClient"], int(given["NewInternalPort"]), min(lease, self.most))
        if self.refusal:
            return self.refusal
        if lease and self.only_for_ever:
            return self.only_for_ever
        before = self.mappings.get(public)
        if before is not None and (before.client, before.port) != (entry.client, entry.port):
            return {} if self.gives_to_nobody else 718
        self.mappings[public] = entry
        return {}

    def _DeletePortMapping(self, given: dict[str, str]) -> int | dict[str, str]:  # noqa: N802
        return {} if self.mappings.pop(int(given["NewExternalPort"]), None) else 714


@asynccontextmanager
async def fake_router(host: str = "127.0.0.1") -> AsyncIterator[FakeRouter]:
    """One on loopback, while the block runs."""
    router = FakeRouter(host=host)
    async with trio.open_nursery() as nursery:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind((host, 0))
            router.ssdp = sock.getsockname()
            listeners = await nursery.start(partial(trio.serve_tcp, router.serve, 0, host=host))
            router.http = listeners[0].socket.getsockname()[1]
            nursery.start_soon(router.answer_searches, sock)
            yield router
            nursery.cancel_scope.cancel()
