"""`tether-rendezvous`, or `python -m rendezvous`: serves until it is told to end, or shows the key's fingerprint."""

import contextlib
import errno
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import click
import structlog
import trio

from meshd import __version__
from meshd.drivers import logs
from meshd.drivers.one_error import one_error
from meshd.drivers.quic import open_endpoint
from meshd.drivers.quic_engine import Engine
from meshd.drivers.readiness import Readiness
from meshd.drivers.tls_identity import TlsIdentity
from meshd.errors import EXIT_CODES, EXIT_USAGE, RefusedError, TetherError
from meshd.model.address import Address
from meshd.model.server import DEFAULT_SERVER_PORT
from rendezvous import key as keys
from rendezvous.app import ALPNS, DEFAULT_CLIENTS, DEFAULT_HANDSHAKES, Server, limits

DEFAULT_METRICS: Final = "127.0.0.1:4441"
DEFAULT_METRICS_PORT: Final = 4441

ENV_SETTING: Final = "TETHER_RENDEZVOUS"
"""What clients read; here only to be shown."""

ANY_HOST: Final = "HOST"
"""Stands in what is to be copied for the name that clients know this machine by."""

EXIT_CODES_HELP: Final = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in EXIT_CODES.items())


@attrs.frozen
class Options:
    """How a server is to run."""

    host: str | None
    port: int
    clients: int
    handshakes: float
    metrics: Address | None
    as_json: bool


async def run(options: Options, identity: TlsIdentity, readiness: Readiness) -> None:
    """Serve until SIGTERM or SIGINT. Raises TetherError for what keeps it from starting."""
    log = structlog.get_logger()
    async with (
        _endpoint(options, identity) as server,
        _metrics(server, options.metrics),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            port = server.endpoint.port
            click.echo(_started(options, port, identity.fingerprint))
            readiness.ready(f"UDP port {port}")
            log.info("ready", port=port, clients=options.clients, metrics=str(options.metrics or "off"))
            async for _ in signals:
                break
        readiness.stopping()
        log.info("stopping", clients=server.board.clients)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _endpoint(options: Options, identity: TlsIdentity) -> AsyncIterator[Server]:
    async with contextlib.AsyncExitStack() as stack:
        opened = open_endpoint(
            engine=Engine(),
            identity=identity,
            host=options.host,
            port=options.port,
            alpns=ALPNS,
            accept=True,
            limits=limits(options.clients, options.handshakes),
        )
        try:
            endpoint = await stack.enter_async_context(opened)
        except OSError as error:
            raise _not_bound(options, error) from error
        yield Server(endpoint, options.clients)


def _not_bound(options: Options, error: OSError) -> TetherError:
    if error.errno == errno.EADDRINUSE:
        return RefusedError(
            f"UDP port {options.port} is in use on this machine.",
            "Does a server run already? Name another port with --port.",
        )
    where = f"{options.host or 'all addresses'}, UDP port {options.port}"
    return RefusedError(f"The server cannot bind to {where}: {error.strerror or error}.", "See --host and --port.")


@contextlib.asynccontextmanager
async def _metrics(server: Server, address: Address | None) -> AsyncIterator[None]:
    if address is None:
        yield
        return
    from rendezvous import http  # a megabyte or ten that a server without metrics does not need

    async with http.serving(server, address):
        yield


def _started(options: Options, port: int, fingerprint: str) -> str:
    host = ANY_HOST if options.host in (None, "::", "0.0.0.0") else str(options.host)  # noqa: S104 (asked for)
    setting = f"{Address(host, port)}#{fingerprint}"
    if options.as_json:
        return json.dumps({"event": "ready", "port": port, "fingerprint": fingerprint, "setting": setting})
    return f"Serving on UDP port {port}. For clients: {ENV_SETTING}={setting}"


def _address_of_metrics(text: str) -> Address | None:
    if text == "off":
        return None
    from rendezvous.http import check_loopback

    return check_loopback(Address.parse(text, DEFAULT_METRICS_PORT))


def _key_option(function: Any) -> Any:
    return click.option(
        "--key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File of the server's key (PEM, P-256). Unless given key.pem in the state directory that systemd names "
        "($STATE_DIRECTORY), else in this user's.",
    )(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES_HELP)
@click.version_option(__version__, prog_name="tether-rendezvous")
def command() -> None:
    """A rendezvous server for Tether: it tells two machines each other's address, and nothing else.

    It needs one UDP port that the world can reach, no name, no certificate, no database. It learns addresses and
    that somebody waits, and keeps nothing: docs/protocol/rendezvous.md says what it sees, docs/server.md how to run one.
    """


@command.command(epilog=EXIT_CODES_HELP)
@click.option("--host", help="Address to bind to.  [default: all, IPv6 and IPv4]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_SERVER_PORT,
    show_default=True,
    help="UDP port; 0: any.",
)
@click.option(
    "--clients",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULT_CLIENTS,
    show_default=True,
    help="Clients at once, some 40 KiB each. While it is full newcomers hear nothing.",
)
@click.option(
    "--handshakes",
    type=click.FloatRange(1, 100_000),
    default=DEFAULT_HANDSHAKES,
    show_default=True,
    help="New connections a second, about 2 ms of a core each.",
)
@_key_option
@click.option(
    "--metrics",
    default=DEFAULT_METRICS,
    show_default=True,
    metavar="HOST:PORT|off",
    help="Where /health and /metrics (Prometheus) answer: a loopback address, or off.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Addresses of clients are logged at debug only.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The line that says it is ready as JSON.")
def serve(key: Path | None, metrics: str, log_level: logs.Level, log_format: logs.Format, **rest: Any) -> None:
    """Serve until SIGTERM or SIGINT.

    The first start makes the key. The line that is printed once all is up has the setting for clients, with the key's
    fingerprint: they then talk to this server and to no other that answers in its place. The log goes to standard error.

    \b
    Try it on this machine:
      python -m rendezvous serve --host 127.0.0.1
    On a server, with HOST its name or address:
      python -m rendezvous serve
      then, on each machine: TETHER_RENDEZVOUS=HOST:4440#FINGERPRINT
    """
    readiness = Readiness()
    logs.configure(log_format, log_level)
    options = Options(metrics=_address_of_metrics(metrics), **rest)
    identity = keys.load_or_make(key or keys.default_path())
    with one_error():
        trio.run(run, options, identity, readiness)


@command.command(epilog=EXIT_CODES_HELP)
@_key_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def fingerprint(key: Path | None, as_json: bool) -> None:
    """Show the fingerprint of the server's key: what stands behind # in a client's setting.

    It is the same whatever the server's name, and lasts as long as the key file does.
    """
    found = keys.load(key or keys.default_path()).fingerprint
    click.echo(json.dumps({"fingerprint": found}) if as_json else found)


def main() -> NoReturn:
    """Run the command; its exit codes are those of all commands (meshd/errors.py)."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except TetherError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
