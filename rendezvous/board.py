"""Who waits for whom: numbers, topics, and what is told when two have met. Pure: no sockets, no clock, no chance of its own.

Clients are joined, ask, and leave; what is to be told comes back as (client, message). Everything that a client asked
for is an `_Ask` under its own `ref`, and ends in one place, `_end`. docs/protocol/rendezvous.md, "Numbers" and "Topics".
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs

from meshd.model.address import Address
from meshd.wire.rendezvous import (
    NONCE_SIZE,
    NUMBER_LIMIT,
    Allocate,
    ClientMessage,
    Enter,
    Free,
    Leave,
    Match,
    Nat,
    Numbered,
    Refusal,
    Refused,
    ServerMessage,
    Side,
    Third,
    Wait,
)

LIFETIME: Final = 900.0
"""Seconds that a number or a wait lives: longer than any pairing window, and what a forgotten one may cost."""

SMALLEST_SPAN: Final = 100
"""Numbers are drawn from 1 to this at least, so that one is not guessed while few are live."""

SPAN: Final = 10
"""Numbers to draw from for each that is live: nine of ten guesses are wrong, and numbers stay short to read aloud."""

NUMBERS_PER_SOURCE: Final = 2
"""Live numbers of one source: a household pairs one machine, and another."""

ENTRIES_PER_SOURCE: Final = 3
"""Matches that one source gets out of one number: as many as the window has tries."""

WRONG_PER_SOURCE: Final = 20
WRONG_SECONDS: Final = 60.0
"""Wrong numbers of one source in that time: enough for a slip of the tongue, too few to look for open ones."""

WAITS_PER_CONNECTION: Final = 256
"""Asks of one client at once: a mesh of machines, two days."""

ASKS_FOR_EACH: Final = 20
"""Asks in all, for each client that the server takes: cards are most of what is kept, and this is what bounds them."""

TAKEN_SECONDS: Final = 2
"""When to come again to a number that somebody is at. Its owner hears of others this often at most."""

ASK_AGAIN_SECONDS: Final = 1
"""When to ask again for what has expired."""

ROUND_TRIP_LIMIT: Final = 10.0
"""Seconds of a round trip that are believed; twice what `Match.wait_ms` can say."""

Outcome = tuple[int, ServerMessage]
"""The client that is to be told, and what."""


@attrs.define(eq=False)
class _Client:
    number: int
    source: bytes
    place: Address
    round_trip: float | None = None
    """Seconds, None while unknown."""
    asks: "dict[int, _Ask]" = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Ask:
    """A number that is owned or entered, or a wait under a topic, with what a match tells of whoever asked."""

    client: _Client
    ref: int
    nat: Nat
    card: bytes = b""
    topic: "_Topic | None" = None
    number: "_Number | None" = None


@attrs.define(eq=False)
class _Number:
    number: int
    owner: _Ask
    entrant: _Ask | None = None
    entries: Counter[bytes] = attrs.field(factory=Counter)
    """Matches by source."""
    told_third: float = -math.inf


@attrs.define(eq=False)
class _Topic:
    topic: bytes
    sides: dict[Side, _Ask] = attrs.field(factory=dict)


@attrs.define
class _Wrong:
    """Wrong numbers of one source since some moment."""

    until: float
    count: int = 0


class Board:
    """What a server knows of those who are connected. `entropy(n)` gives n random bytes; times are seconds on one clock.

    `most_clients` is how many the server takes: it bounds what all of them may ask for at once.
    """

    def __init__(self, entropy: Callable[[int], bytes], most_clients: int) -> None:
        self._entropy = entropy
        self._most = ASKS_FOR_EACH * most_clients
        self._clients: dict[int, _Client] = {}
        self._numbers: dict[int, _Number] = {}
        self._topics: dict[bytes, _Topic] = {}
        self._ends: dict[_Ask, float] = {}
        """In the order in which they expire, since all live equally long. Who entered lives as long as the number."""
        self._owned: dict[bytes, dict[_Ask, None]] = {}
        """Live numbers by source, the oldest first."""
        self._wrong: dict[bytes, _Wrong] = {}
        self._asks = 0
        self._told: list[Outcome] = []
        self.matches = 0
        """Matches so far."""
        self.refusals = Counter[Refusal]()
        """Refusals so far."""

    @property
    def clients(self) -> int:
        """Clients that joined and have not left."""
        return len(self._clients)

    @property
    def numbers(self) -> int:
        """Numbers that are live."""
        return len(self._numbers)

    @property
    def waits(self) -> int:
        """Waits under topics."""
        return self._asks - len(self._numbers) - sum(each.entrant is not None for each in self._numbers.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is kept of anybody."""
        return not (self._clients or self._numbers or self._topics or self._ends or self._owned or self._wrong)

    # What the app knows of a client.

    def join(self, client: int, source: bytes, place: Address) -> None:
        """Somebody connected, from this source and address."""
        self._clients[client] = _Client(client, source, place)

    def leave(self, client: int) -> None:
        """It is gone, and all that it asked for."""
        gone = self._clients.pop(client)
        for ask in list(gone.asks.values()):
            self._end(ask)

    def moved(self, client: int, place: Address) -> None:
        """Its packets come from another address now, which was shown to be its own."""
        self._clients[client].place = place

    def measured(self, client: int, round_trip: float | None) -> None:
        """Seconds to it and back; None when it did not answer."""
        self._clients[client].round_trip = round_trip

    # What happens.

    def take(self, client: int, message: ClientMessage, now: float) -> list[Outcome]:
        """Do what a client asks; what is to be told, in order."""
        self._forgive(now)
        asking = self._clients[client]
        if isinstance(message, Free):
            self._free(asking, message.ref)
        else:
            # A ref names one thing: who uses it again wants the new in place of the old.
            if (former := asking.asks.get(message.ref)) is not None:
                self._end(former)
            if not isinstance(message, Leave):
                self._ask(asking, message, now)
        return self._tell()

    def expire(self, now: float) -> list[Outcome]:
        """Take away what has lived its time; who waited for it is told."""
        self._forgive(now)
        while self._ends:
            ask, end = next(iter(self._ends.items()))
            if end > now:
                break
            self._end(ask)
            self._refuse(ask.client, ask.ref, Refusal.EXPIRED, ASK_AGAIN_SECONDS)
        return self._tell()

    def _ask(self, asking: _Client, message: Allocate | Enter | Wait, now: float) -> None:
        if len(asking.asks) >= WAITS_PER_CONNECTION or self._asks >= self._most:
            self._refuse(asking, message.ref, Refusal.TOO_MANY, TAKEN_SECONDS)
        elif isinstance(message, Allocate):
            self._allocate(asking, message, now)
        elif isinstance(message, Enter):
            self._enter(asking, message, now)
        else:
            self._wait(asking, message, now)

    def _allocate(self, asking: _Client, message: Allocate, now: float) -> None:
        owned = self._owned.setdefault(asking.source, {})
        if len(owned) >= NUMBERS_PER_SOURCE:
            left = self._ends[next(iter(owned))] - now
            self._refuse(asking, message.ref, Refusal.TOO_MANY, math.ceil(left) + ASK_AGAIN_SECONDS)
            return
        number = self._draw()
        ask = self._begin(_Ask(asking, message.ref, message.nat), now)
        ask.number = self._numbers[number] = _Number(number, ask)
        owned[ask] = None
        self._told.append((asking.number, Numbered(message.ref, number, int(LIFETIME))))

    def _draw(self) -> int:
        span = min(NUMBER_LIMIT, max(SMALLEST_SPAN, SPAN * len(self._numbers)))
        while True:
            number = int.from_bytes(self._entropy(8), "big") % span + 1
            if number not in self._numbers:
                return number

    def _enter(self, asking: _Client, message: Enter, now: float) -> None:
        # Who has guessed too often is told nothing of any number, not even that it is live.
        wrong = self._wrong.get(asking.source)
        if wrong is not None and wrong.count >= WRONG_PER_SOURCE:
            self._refuse(asking, message.ref, Refusal.TOO_MANY, math.ceil(wrong.until - now))
            return
        number = self._numbers.get(message.number)
        if number is None:
            self._wrong.setdefault(asking.source, _Wrong(now + WRONG_SECONDS)).count += 1
            self._refuse(asking, message.ref, Refusal.NO_SUCH_NUMBER, 0)
        elif number.owner.client is asking:
            self._refuse(asking, message.ref, Refusal.NO_SUCH_NUMBER, 0)  # of somebody else's
        elif number.entries[asking.source] >= ENTRIES_PER_SOURCE:
            self._refuse(asking, message.ref, Refusal.TOO_MANY, 0)
        elif number.entrant is not None:
            self._send_away(asking, message, number, now)
        else:
            number.entrant = ask = self._begin(_Ask(asking, message.ref, message.nat, number=number), None)
            number.entries[asking.source] += 1
            self._match(ask, number.owner)

    def _send_away(self, asking: _Client, message: Enter, number: _Number, now: float) -> None:
        self._refuse(asking, message.ref, Refusal.TAKEN, TAKEN_SECONDS)
        if number.entrant is not None and now - number.told_third >= TAKEN_SECONDS:
            number.told_third = now
            for ask in (number.owner, number.entrant):
                self._told.append((ask.client.number, Third(ask.ref)))

    def _free(self, asking: _Client, ref: int) -> None:
        ask = asking.asks.get(ref)
        if ask is not None and ask.number is not None and ask.number.owner is ask and ask.number.entrant is not None:
            self._end(ask.number.entrant)

    def _wait(self, asking: _Client, message: Wait, now: float) -> None:
        topic = self._topics.get(message.topic) or _Topic(message.topic)
        other = topic.sides.get(Side(1 - message.side))
        if other is not None and other.client is asking:
            self._refuse(asking, message.ref, Refusal.TAKEN, 0)  # nobody meets itself
            return
        former = topic.sides.get(message.side)
        if former is not None:
            self._end(former)
            self._refuse(former.client, former.ref, Refusal.TAKEN, 0)
        ask = self._begin(_Ask(asking, message.ref, Nat.UNKNOWN, message.card, topic), now)
        topic.sides[message.side] = ask
        self._topics[message.topic] = topic
        if other is not None:
            self._match(ask, other)
            self._end(ask)
            self._end(other)

    # How asks begin, meet and end.

    def _begin(self, ask: _Ask, now: float | None) -> _Ask:
        ask.client.asks[ask.ref] = ask
        self._asks += 1
        if now is not None:
            self._ends[ask] = now + LIFETIME
        return ask

    def _match(self, one: _Ask, other: _Ask) -> None:
        self.matches += 1
        nonce = self._entropy(NONCE_SIZE)
        for here, there in ((one, other), (other, one)):
            place, wait = there.client.place, _wait_ms(here.client.round_trip, there.client.round_trip)
            match = Match(here.ref, place.host, place.port, nonce, wait, there.nat, there.card)
            self._told.append((here.client.number, match))

    def _end(self, ask: _Ask) -> None:
        if ask.client.asks.get(ask.ref) is not ask:
            return
        del ask.client.asks[ask.ref]
        self._asks -= 1
        self._ends.pop(ask, None)
        if (topic := ask.topic) is not None:
            topic.sides = {side: each for side, each in topic.sides.items() if each is not ask}
            if not topic.sides:
                self._topics.pop(topic.topic, None)
        elif (number := ask.number) is not None and number.owner is ask:
            del self._numbers[number.number]
            owned = self._owned[ask.client.source]
            del owned[ask]
            if not owned:
                del self._owned[ask.client.source]
            if number.entrant is not None:
                self._end(number.entrant)
        elif number is not None:
            number.entrant = None

    def _refuse(self, client: _Client, ref: int, why: Refusal, seconds: int) -> None:
        self.refusals[why] += 1
        self._told.append((client.number, Refused(ref, why, seconds)))

    def _forgive(self, now: float) -> None:
        # In the order in which they were begun, which is the one in which they are over.
        while self._wrong:
            source, wrong = next(iter(self._wrong.items()))
            if wrong.until > now:
                break
            del self._wrong[source]

    def _tell(self) -> list[Outcome]:
        told, self._told = self._told, []
        return told


def _wait_ms(here: float | None, there: float | None) -> int:
    """Milliseconds that the nearer one waits: the word reaches it earlier by half of what the round trips differ by."""
    if here is None or there is None:
        return 0
    return round(max(0.0, min(there, ROUND_TRIP_LIMIT) - here) * 500)
