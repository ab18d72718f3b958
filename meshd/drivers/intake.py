"""What a journal does in threads: check what arrived, and write it, or what this machine says, within one commit.

Plain functions, no state but their arguments; journal.py calls them one after another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from meshd.drivers.letterbox import Draft, Letterbox
from meshd.errors import RemoteProtocolError
from meshd.model import clock
from meshd.model.identity import Keys
from meshd.model.record import NO_HASH, Head, Log, LogId, Record, write_record
from meshd.store.database import Database
from meshd.store.records import ConflictError, GapError, Waiting
from meshd.wire.bodies import Body, decode, encode
from meshd.wire.sync import Arrived, Span, Tip

CHAINS_LIMIT: Final = 512
"""Generations of one author that are kept in each log. A machine opens a few in its life; one that opens thousands makes
everybody's heads long. A revocation can name as many (model/facts.CUTS_LIMIT)."""

RELEASE_PAGE: Final = 512
"""Records that leave quarantine in one commit."""


@attrs.frozen
class Checked:
    """A record that its author signed, and what it says; None when it is not known what, or is no longer here."""

    record: Record
    age: int
    body: Body | None


@attrs.frozen
class Rules:
    """What decides whether a record is stored, and whether it is folded at once."""

    mesh: bytes
    accepts: Callable[[LogId], int | None]
    """The last number of a chain that is worth having, model/roster.Roster."""

    limit: Callable[[LogId], int | None]
    """The last that counts."""

    quota: int
    """Bytes that the records of one author may take."""

    now_ms: int
    """Counted time, store/records.py."""

    wall_ms: int
    letterbox: Letterbox


@attrs.define
class Outcome:
    """What became of a batch."""

    stored: list[Checked] = attrs.field(factory=list)
    stuck: set[LogId] = attrs.field(factory=set)
    """Chains that did not come as far as the batch went."""

    conflicts: list[tuple[Record, Record]] = attrs.field(factory=list)
    """What is held, and what came with its number or on top of another."""

    waiting: dict[LogId, Waiting] = attrs.field(factory=dict)
    """Chains that went into quarantine."""

    over_quota: set[bytes] = attrs.field(factory=set)
    tips: dict[LogId, Tip] = attrs.field(factory=dict)


@attrs.frozen
class Wish:
    """A record that this machine is to write: its type, log, and encoded body or what makes one."""

    kind: str
    log: Log
    body: Body | Draft
    encoded: bytes
    """Of a draft: the plaintext."""

    ttl: int


@attrs.frozen
class Pen:
    """What our own next records depend on."""

    mesh: bytes
    keys: Keys
    generation: int
    clock: int
    """The highest hybrid clock seen."""

    now_ms: int
    wall_ms: int
    letterbox: Letterbox


@attrs.frozen
class Written:
    """Our own records as stored, wish by wish, where their chains are now, and the clock after them."""

    records: list[Record]
    bodies: list[Body]
    tips: dict[LogId, Tip]
    clock: int


def check(mesh: bytes, arrived: Iterable[Arrived]) -> list[Checked]:
    """Check signatures and read bodies: 0.1 ms a record. Raises RemoteProtocolError for a forgery.

    A body that is not what its type says, in a record that is signed, is the author's fault and not the carrier's: the
    record is kept, or its chain would end here, and says nothing.
    """
    checked = []
    for each in arrived:
        record = each.record
        of_this_mesh = record.header.mesh == mesh or (record.header.mesh == NO_HASH and record.hash == mesh)
        if not of_this_mesh or not record.is_authentic():
            raise RemoteProtocolError("The other side sent a record that is forged, or from another mesh.")
        if record.body is None and not _may_lack_body(each):
            raise RemoteProtocolError(
                "The other side sent a record without its body, which nobody has a reason to drop."
            )
        try:
            body = decode(record)
        except RemoteProtocolError:
            body = None
        checked.append(Checked(record, each.age, body))
    return checked


def store(database: Database, checked: Sequence[Checked], rules: Rules, waiting: Mapping[LogId, Waiting]) -> Outcome:
    """Store what belongs here, in order, and fold what says something now. For one job of a Storage."""
    outcome = Outcome(waiting=dict(waiting))
    records = database.records
    sizes, chains = _by_author(records.sizes(), checked)
    for each in checked:
        record = each.record
        author, chain = record.header.author, record.chain
        last = rules.accepts(chain)
        if record.hash != rules.mesh and last is not None and record.header.sequence > last:
            outcome.stuck.add(chain)
            continue
        size = len(record.header_bytes) + len(record.signature) + len(record.body or b"")
        too_many = chain not in chains[author] and _count(chains[author], chain.log) >= CHAINS_LIMIT
        if too_many or sizes[author] + size > rules.quota:
            outcome.over_quota.add(author)
            outcome.stuck.add(chain)
            continue
        try:
            if not records.insert(record, age_ms=each.age * 1000, now_ms=rules.now_ms):
                continue
        except GapError:
            outcome.stuck.add(chain)
            continue
        except ConflictError as error:
            outcome.stuck.add(chain)
            outcome.conflicts.append((error.held, record))
            continue
        if chain not in chains[author]:
            chains[author].add(chain)
            database.handles.set_live(chain, rules.limit(chain))
        sizes[author] += size
        outcome.stored.append(each)
        _fold(database, each, outcome, rules)
    outcome.tips = tips(database, {each.record.chain for each in outcome.stored})
    return outcome


def write(database: Database, wishes: Sequence[Wish], pen: Pen) -> Written:
    """Write our own next records, signed, and fold them. For one job of a Storage."""
    heads: dict[LogId, Head | None] = {}
    last_clock = pen.clock
    written: list[Record] = []
    bodies: list[Body] = []
    me = pen.keys.identity.signing_key
    for wish in wishes:
        chain = LogId(me, wish.log, pen.generation)
        if chain not in heads:
            heads[chain] = database.records.head(chain)
        last_clock = clock.tick(last_clock, pen.wall_ms)
        previous = heads[chain]
        if isinstance(wish.body, Draft):
            place = 1 if previous is None else previous.sequence + 1
            body: Body = wish.body.sealed(pen.keys, pen.mesh, pen.generation, place)
            encoded, said = encode(body), wish.body.said
        else:
            body, encoded, said = wish.body, wish.encoded, None
        record = write_record(
            pen.keys,
            mesh=pen.mesh,
            log=wish.log,
            generation=pen.generation,
            previous=previous,
            first_previous=_last_before(database, chain) if previous is None else NO_HASH,
            clock=last_clock,
            kind=wish.kind,
            body=encoded,
            ttl=wish.ttl,
        )
        database.records.insert(record, age_ms=0, now_ms=pen.now_ms)
        pen.letterbox.fold(database, record, body, said)
        heads[chain] = record.head
        written.append(record)
        bodies.append(body)
    return Written(written, bodies, tips(database, heads), last_clock)


def release(
    database: Database, chain: LogId, first: int, now_ms: int, wall_ms: int, letterbox: Letterbox
) -> Waiting | None:
    """Fold what waited in a chain, until one is too far ahead again or a page is full. What waits still, if anything."""
    page = database.records.range(chain, first, most=RELEASE_PAGE, most_bytes=1 << 23, now_ms=now_ms)
    waits: Waiting | None = None
    for stored in page:
        header = stored.record.header
        if clock.is_ahead(header.clock, wall_ms):
            waits = Waiting(chain, header.sequence, header.clock)
            break
        letterbox.fold(database, stored.record, _body(stored.record))
    else:
        head = database.records.head(chain)
        if page and head is not None and head.sequence > page[-1].record.header.sequence:
            waits = Waiting(chain, page[-1].record.header.sequence + 1, 0)
    database.records.set_quarantined(chain, None if waits is None else waits.first)
    return waits


def read(
    database: Database, spans: Sequence[Span], reach: Callable[[LogId], int], most_bytes: int, now_ms: int
) -> tuple[list[Arrived], tuple[Span, ...]]:
    """Records of these spans up to what `reach` allows, in order, as many as fit in `most_bytes`; and what is left."""
    found: list[Arrived] = []
    room = most_bytes
    for index, span in enumerate(spans):
        last = min(span.last, reach(span.chain))
        first = span.first
        while first <= last:
            most = min(last - first + 1, RELEASE_PAGE)
            page = database.records.range(span.chain, first, most=most, most_bytes=room, now_ms=now_ms)
            for stored in page:
                arrived = _as_sent(stored.record, stored.age)
                if found and arrived.size > room:
                    return found, (Span(span.chain, first, last), *spans[index + 1 :])
                found.append(arrived)
                room -= arrived.size
                first += 1
            if not page:
                break
    return found, ()


def tips(database: Database, chains: Iterable[LogId]) -> dict[LogId, Tip]:
    """Where these chains are now."""
    sizes = database.records.sizes()
    found = {}
    for chain in chains:
        head = database.records.head(chain)
        if head is not None:
            found[chain] = Tip(head.sequence, head.hash, sizes[chain])
    return found


def _may_lack_body(arrived: Arrived) -> bool:
    """Whether an honest carrier may have dropped it: else any carrier could undo a revocation, or a value, for whoever
    gets it there first, since what is held is never asked for again."""
    header = arrived.record.header
    return header.log is Log.DATA and 0 < header.ttl <= arrived.age


def _as_sent(record: Record, age: int) -> Arrived:
    """What has expired travels as a header, also in the moment before the store has dropped it."""
    ttl = record.header.ttl
    if not ttl or record.header.log is Log.ROSTER:  # which never expires, whatever its author wrote
        return Arrived(record, 0)
    return Arrived(record.without_body() if age >= ttl else record, age)


def _fold(database: Database, each: Checked, outcome: Outcome, rules: Rules) -> None:
    record, chain = each.record, each.record.chain
    if chain.log is not Log.DATA or chain in outcome.waiting:
        return
    if clock.is_ahead(record.header.clock, rules.wall_ms):
        outcome.waiting[chain] = Waiting(chain, record.header.sequence, record.header.clock)
        database.records.set_quarantined(chain, record.header.sequence)
    else:
        rules.letterbox.fold(database, record, each.body)


def _body(record: Record) -> Body | None:
    try:
        return decode(record)
    except RemoteProtocolError:
        return None


def _by_author(
    sizes: Mapping[LogId, int], checked: Sequence[Checked]
) -> tuple[defaultdict[bytes, int], defaultdict[bytes, set[LogId]]]:
    """Bytes and chains that the authors of this batch have here."""
    authors = {each.record.header.author for each in checked}
    totals: defaultdict[bytes, int] = defaultdict(int)
    chains: defaultdict[bytes, set[LogId]] = defaultdict(set)
    for chain, size in sizes.items():
        if chain.author in authors:
            totals[chain.author] += size
            chains[chain.author].add(chain)
    return totals, chains


def _count(chains: Iterable[LogId], log: Log) -> int:
    return sum(chain.log is log for chain in chains)


def _last_before(database: Database, chain: LogId) -> bytes:
    """The hash that a chain's first record names: the last one known of the generation before, in its log."""
    before = [
        (other.generation, head.hash)
        for other, head in database.records.heads(chain.log).items()
        if other.author == chain.author and other.generation < chain.generation
    ]
    return max(before)[1] if before else NO_HASH
