"""`meshd`, or `python -m meshd`: the daemon. It builds a node and serves the control socket until it is told to end.

SIGTERM and SIGINT end it in order, SIGHUP reads the settings again. docs/tether.md says how a service runs it.
"""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import click
import structlog
import trio

from meshd import __version__
from meshd.config import ENV_STATE, Loaded, load_settings, settings_file, state_directory
from meshd.drivers import backup, logs
from meshd.drivers.one_error import one_error
from meshd.drivers.readiness import Readiness
from meshd.drivers.state import StateDirectory
from meshd.errors import EXIT_USAGE, TetherError
from meshd.node.daemon_calls import NodeContext
from meshd.node.news import News
from meshd.node.node import Node, open_node
from meshd.node.problems import Problems
from meshd.notices import Notice
from meshd.surfaces.control import Control

STOP_TIMEOUT: Final = 10.0
"""Seconds to close links and finish writes once asked to end: well inside what a service manager grants."""

SWITCH_INTERVAL: Final = 0.001
"""Seconds that a thread may hold the interpreter while another waits. The disk's thread waits for it at every step, and
at Python's 5 ms a busy event loop makes a write several times as slow."""


class Daemon:
    """One run on a locked state directory."""

    def __init__(self, state: StateDirectory, loaded: Loaded, readiness: Readiness) -> None:
        self._state, self._loaded, self._readiness = state, loaded, readiness
        self._problems = Problems()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Until a signal, or an operation, ends it. Raises TetherError for what keeps it from starting."""
        news = News(self._note)
        with one_error():
            async with trio.open_nursery() as nursery:
                async with open_node(self._state, self._loaded, news, self._problems, __version__) as node:
                    context = NodeContext(node)
                    async with trio.open_nursery() as faces:
                        await faces.start(partial(Control(context).serve, self._state.socket))
                        await nursery.start(self._watch_signals, context)  # before anybody is told that it is ready
                        faces.start_soon(self._end_when_asked, node)
                        self._readiness.ready(_summary(node))
                        port = node.machine.endpoint.port
                        structlog.get_logger().info("ready", state=str(self._state.path), port=port)
                        await self._ended.wait()
                        self._readiness.stopping()
                        structlog.get_logger().info("stopping")
                        # What is under way is brought to its end, but not for ever.
                        nursery.cancel_scope.deadline = trio.current_time() + STOP_TIMEOUT
                        # First the faces: meshes that are being closed would look as if there were none.
                        faces.cancel_scope.cancel()
                nursery.cancel_scope.cancel()

    def _note(self, notice: Notice) -> None:
        logs.log_notice(notice)
        self._problems.note(notice)

    async def _watch_signals(self, context: NodeContext, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload(context)
                else:
                    self._ended.set()

    async def _reload(self, context: NodeContext) -> None:
        self._readiness.reloading()
        try:
            await context.reload()
        except TetherError as error:
            structlog.get_logger().error("reload.failed", what=error.what, advice=error.advice)
        self._readiness.ready(_summary(context.node))

    async def _end_when_asked(self, node: Node) -> None:
        await node.stopping.wait()
        self._ended.set()


def _summary(node: Node) -> str:
    names = ", ".join(sorted(mesh.name for mesh in node.meshes.values()))
    return f"UDP port {node.machine.endpoint.port}; {f'in {names}' if names else 'in no mesh yet'}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Where to keep everything [{ENV_STATE}; else the user's own state folder].",
)
@click.option(
    "--restore",
    type=click.Path(path_type=Path),
    help="Make the state directory of this backup, and end. What `tether restore` runs.",
)
@click.version_option(__version__, prog_name="meshd")
def command(state: Path | None, restore: Path | None) -> None:
    """The daemon of a mesh of this user's machines.

    It is one for each state directory, and runs until it is ended (SIGTERM, SIGINT); SIGHUP makes it read its settings
    again. `tether` talks to it; `tether service install` has it started with the session.
    """
    readiness = Readiness()
    loaded = load_settings(settings_file(state))
    logs.configure(loaded.settings.log_format, loaded.settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL)
    with StateDirectory.open(state_directory(state)) as directory:
        if restore is not None:
            saved = trio.run(backup.restore, restore, directory)
            click.echo(f"{directory.path}: restored, meshes: {saved.meshes}. Start the daemon: meshd &")
            return
        trio.run(Daemon(directory, loaded, readiness).run)


def main() -> NoReturn:
    """Run the command; its exit codes are those of all commands (errors.py)."""
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
