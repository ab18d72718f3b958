"""How often words may be tried: three tries a window, one counter for everybody. docs/protocol/pairing.md, "Tries"."""

from typing import Final

from meshd.errors import LocalProtocolError

TRIES: Final = 3
"""Wrong tries that close a window: three guesses at 33 bits are one chance in 2.8 billion."""


class Window:
    """The tries of one secret. All pairings that use the secret share it, whatever address they come from.

    `take` and the resolving of a try are plain counting without a pause, so in one thread nothing can come between.
    A try that nobody resolves stays open for ever and so is as good as spent: forgetting one never helps a guesser.
    """

    def __init__(self) -> None:
        self._open = 0
        self._failed = 0

    @property
    def open_tries(self) -> int:
        """Tries that were taken and have no result yet."""
        return self._open

    @property
    def failed(self) -> int:
        """Tries that are spent."""
        return self._failed

    @property
    def remaining(self) -> int:
        """Tries that can be taken now."""
        return TRIES - self._open - self._failed

    @property
    def closed(self) -> bool:
        """Whether all tries are spent. While open ones merely occupy the rest, `take` gives None but this is False."""
        return self._failed >= TRIES

    def take(self) -> "Try | None":
        """A try, or None when there is no free one: the window is closed, or busy for now."""
        if self.remaining <= 0:
            return None
        self._open += 1
        return Try(self)

    def _resolve(self, *, spent: bool) -> None:
        self._open -= 1
        self._failed += spent


class Try:
    """One taken try. Exactly one of its methods is called, once; a second call raises LocalProtocolError."""

    def __init__(self, window: Window) -> None:
        self._window: Window | None = window

    def succeeded(self) -> None:
        """Both sides held the same words: the try goes back."""
        self._resolve(spent=False)

    def unused(self) -> None:
        """The pairing ended before it could tell a guesser anything: the try goes back."""
        self._resolve(spent=False)

    def failed(self) -> None:
        """The words were wrong, or the other side may know whether they are and did not say: the try is spent."""
        self._resolve(spent=True)

    def _resolve(self, *, spent: bool) -> None:
        if self._window is None:
            raise LocalProtocolError("a try has one result")
        window, self._window = self._window, None
        window._resolve(spent=spent)
