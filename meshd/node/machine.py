"""What all meshes of this machine share: one key, one socket, one disk, one upload limit, and the world around it."""

from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from meshd.config import Settings
from meshd.drivers.clocks import Clocks
from meshd.drivers.keys import KeyState
from meshd.drivers.networks import Interface, watch_addresses
from meshd.drivers.pairing import system_entropy
from meshd.drivers.portmap import PortMapping
from meshd.drivers.quic import Endpoint
from meshd.drivers.state import StateDirectory
from meshd.drivers.threads import Offload, in_thread
from meshd.drivers.throttle import Throttle
from meshd.drivers.wake import watch_for_wakes
from meshd.model.identity import Keys
from meshd.notices import Notify

_addresses = partial(watch_addresses, known=())


@attrs.frozen(kw_only=True)
class World:
    """What a node learns of the machine that it runs on. The system's, unless a simulation gives its own."""

    clocks: Clocks = attrs.field(factory=Clocks.of_system)
    entropy: Callable[[int], bytes] = system_entropy
    offload: Offload = in_thread
    watch_wakes: Callable[[Callable[[float], None]], Awaitable[object]] = watch_for_wakes
    """Calls what it is given with the seconds that were lost, whenever some were, for ever."""

    map_ports: Callable[[PortMapping], Awaitable[object]] = PortMapping.run
    """Keeps a port open at the router, for ever."""

    watch_addresses: Callable[[Callable[[tuple[Interface, ...]], None]], Awaitable[object]] = _addresses
    """Calls it with this machine's addresses, first at once and then whenever they change, for ever."""


@attrs.define(kw_only=True, eq=False)
class Machine:
    """Made once a daemon. `settings` is another value after a reload."""

    state: StateDirectory
    author: KeyState
    endpoint: Endpoint
    settings: Settings
    notify: Notify
    entropy: Callable[[int], bytes]
    clocks: Clocks
    offload: Offload
    throttle: Throttle = attrs.field(factory=Throttle)

    @property
    def keys(self) -> Keys:
        return self.author.keys
