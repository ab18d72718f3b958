"""What may be asked of the daemon itself, and all parts of the context together."""

import os
from pathlib import Path

from meshd.config import load_settings
from meshd.drivers import logs
from meshd.drivers.backup import backup
from meshd.node.agent_calls import AgentCalls
from meshd.node.blob_calls import BlobCalls
from meshd.node.calls import Calls
from meshd.node.delivery_calls import DeliveryCalls
from meshd.node.handle_calls import HandleCalls
from meshd.node.link_calls import LinkCalls
from meshd.node.mail_calls import MailCalls
from meshd.node.mesh_calls import MeshCalls
from meshd.node.path_calls import PathCalls
from meshd.node.thread_calls import ThreadCalls
from meshd.node.transfer_calls import TransferCalls
from meshd.tools.context import BackedUp, Configuration, Reloaded, Setting, Stopping


class DaemonCalls(Calls):
    """Settings, backup and the end."""

    async def backup(self, *, out: str, blobs: bool, overwrite: bool) -> BackedUp:
        machine, path = self.node.machine, Path(out)
        saved = await backup(
            machine.state,
            machine.author,
            [mesh.storage for mesh in self.node.meshes.values()],
            path,
            blobs=blobs,
            overwrite=overwrite,
            offload=machine.offload,
        )
        return BackedUp(str(saved.path), saved.size, saved.meshes, blobs)

    async def config(self) -> Configuration:
        loaded = self.node.loaded
        return Configuration(str(loaded.path), tuple(Setting(*each) for each in loaded.shown()))

    async def reload(self) -> Reloaded:
        before = self.node.loaded
        after = await self.node.machine.offload(lambda: load_settings(before.path))
        changed, restart = before.changed(after)
        self.node.loaded = after
        self.node.machine.settings = after.settings
        self.node.machine.throttle.set_rate(after.settings.upload_limit)
        logs.configure(after.settings.log_format, after.settings.log_level)
        for mesh in self.node.meshes.values():
            mesh.blobs.disk.floor = after.settings.disk_floor
            mesh.keeping.look()
        return Reloaded(changed, restart)

    async def stop(self) -> Stopping:
        self.node.stopping.set()
        return Stopping(os.getpid())


class NodeContext(
    MeshCalls,
    LinkCalls,
    PathCalls,
    HandleCalls,
    BlobCalls,
    TransferCalls,
    AgentCalls,
    MailCalls,
    ThreadCalls,
    DeliveryCalls,
    DaemonCalls,
):
    """All that may be asked of a node: `Context` of meshd/tools/context.py."""
