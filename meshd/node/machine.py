"""What all meshes of this machine share: one key, one socket, one disk, one upload limit."""

from collections.abc import Callable

import attrs

from meshd.config import Settings
from meshd.drivers.clocks import Clocks
from meshd.drivers.keys import KeyState
from meshd.drivers.quic import Endpoint
from meshd.drivers.state import StateDirectory
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.throttle import Throttle
from meshd.model.identity import Keys
from meshd.notices import Notify


@attrs.define(kw_only=True, eq=False)
class Machine:
    """Made once a daemon. `settings` is another value after a reload."""

    state: StateDirectory
    author: KeyState
    endpoint: Endpoint
    settings: Settings
    notify: Notify
    entropy: Callable[[int], bytes]
    clocks: Clocks = attrs.field(factory=Clocks.of_system)
    throttle: Throttle = attrs.field(factory=Throttle)
    offload: Offload = in_thread

    @property
    def keys(self) -> Keys:
        return self.author.keys
