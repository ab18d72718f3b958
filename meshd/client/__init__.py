"""The control socket's client: any program of the same user may ask the daemon what `tether` asks. docs/protocol/control.md.

    from meshd.client import Client

    with Client() as daemon:
        handle = daemon.call("collapse", json='{"a":1}')["handle"]

`Client` waits and imports no trio, so that a command starts quickly; `meshd.client.concurrent.AsyncClient` is for trio.
Operations, their arguments and answers are listed in docs/tether.md; answers are what JSON makes of them.
"""

from meshd.client.blocking import Client
from meshd.client.lines import Told

__all__ = ["Client", "Told"]
