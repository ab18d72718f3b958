"""Who asks: one connection of the control socket, as operations see it."""

from collections.abc import Callable


class Session:
    """Made when somebody connects. What is bound to it ends with it."""

    def __init__(self) -> None:
        self.agent = ""
        """The agent that it is bound to, as it is written; empty while it is not."""
        self.mesh = ""
        """The id of the mesh in which it is."""
        self.on_end: list[Callable[[], None]] = []
        """Called when the connection has ended; they must return at once and raise nothing."""

    def end(self) -> None:
        """The connection is gone."""
        for callback in self.on_end:
            callback()
        self.on_end.clear()
