"""Mail of one mesh as this machine can read it, who its agents are, and where each message stands. docs/protocol/mail.md.

Rows follow the rules of views.py. Synchronous; every call belongs inside a job of drivers/storage.py. Names of agents are
given and compared in lower case.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import apsw
import attrs

from meshd.model.identity import NodeId, node_id
from meshd.model.message import WITHOUT_LIMIT, Card, Letter, OpenMail, Post, Reached, Said, SealedMail, Thread, Words
from meshd.model.record import Header, Log, LogId, Record
from meshd.store.folding import clock_of, rank
from meshd.wire.bodies import type_of
from meshd.wire.codec import decode_body, encode_body

LETTERS: Final = (type_of(SealedMail)[0], type_of(OpenMail)[0])
"""Types of records that a letter may be in."""

COUNTED: Final = 1_000
"""Unread letters that are counted: who has more is told this number, and each wait would count them all."""


def agent_key(name: str, node: bytes) -> str:
    """An agent among the targets of a letter."""
    return f"agent:{name.lower()}@{node.hex()}"


@attrs.frozen
class Mailed:
    """A letter that is here."""

    record: int
    """Number of its row."""

    arrival: int
    """Rises in the order in which letters became readable on this machine."""

    hash: bytes
    node: NodeId
    rank: bytes
    letter: Letter
    born_ms: int
    ttl: int
    chain: LogId
    sequence: int

    @property
    def clock(self) -> int:
        return clock_of(self.rank)


@attrs.frozen
class Standing:
    """What has been said of a letter that counts."""

    node: NodeId
    agent: str
    state: str
    status: str
    reason: str
    clock: int


@attrs.frozen(kw_only=True)
class Reader:
    """An agent of this machine, and what it is reached by."""

    name: str
    node: NodeId
    targets: tuple[str, ...]
    """Keys of the targets that mean it, its own first."""


@attrs.frozen
class Listed:
    """A letter in a reader's list."""

    mailed: Mailed
    read: bool
    closed: str
    """With what it was closed; empty while it is open."""


@attrs.frozen
class Agented:
    """An agent by its last card."""

    node: NodeId
    card: Card
    clock: int


_LETTER: Final = (
    "l.record, l.hash, l.node, l.rank, l.content, r.born_ms, r.header, n.number"
    " FROM live_letter l JOIN record r ON r.id = l.record JOIN arrived n ON n.record = l.record"
)

# Of a letter `l`, and a word `w` of a chain `k`. What `live_word` says, asked so that each letter costs a look into an index.
_WORD: Final = "word w JOIN chain k ON k.id = w.chain AND w.sequence <= k.upto"
_PARTY: Final = "(l.is_open OR EXISTS (SELECT 1 FROM party p WHERE p.record = l.record AND p.node = w.node))"
_READ: Final = (
    f"EXISTS (SELECT 1 FROM {_WORD} WHERE w.letter = l.hash AND w.letter <> x'' AND w.state = 'read'"
    f" AND w.agent = ? AND w.node = ? AND {_PARTY})"
)
# What is for many is closed for others by its author alone, and by anybody for their own machine: `?` is this one.
_MAY_CLOSE: Final = "(NOT l.is_group OR w.node = l.node OR w.node = ?)"
_CLOSED: Final = f"EXISTS (SELECT 1 FROM live_word w WHERE w.about = l.record AND w.state = 'closed' AND {_MAY_CLOSE})"


class Mail:
    """Letters, words about them, agents and threads of one mesh."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    # Folding

    def fold(self, record: Record, body: Post, said: Said | None, *, unreadable: bool = False) -> None:
        """Take in what a stored record says; a second time changes nothing. `said` is what a sealed one holds, where it is
        for this machine; `unreadable` when it is and does not open."""
        row = self._row("SELECT id, chain FROM record WHERE hash = ? AND body IS NOT NULL", record.hash)
        if row is None:
            return
        place = (row[0], row[1], record.header.sequence)
        match body:
            case SealedMail():
                self._fold_sealed(record, place, body, said, unreadable)
            case OpenMail(letter=letter) if letter.is_sound():
                self._fold_letter(record, place, letter, is_open=True)
            case Reached():
                of = (body.signing_key, body.generation)
                self._insert("reached", *place, record.header.node, *of, body.sequence)
                for number in body.without:
                    self._insert("withheld", *of, number, record.header.node, place[0])
            case Card() if body.is_sound():
                content = encode_body(body)
                self._insert("card", *place, rank(record), record.header.node, body.name.lower(), content)
            case Thread() if body.is_sound():
                self._insert("topic", *place, rank(record), record.hash, body.name.lower(), encode_body(body))

    def _fold_sealed(
        self, record: Record, place: tuple[int, int, int], body: SealedMail, said: Said | None, unreadable: bool
    ) -> None:
        parties = [record.header.node, *(node_id(box.signing_key) for box in body.boxes)]
        match said:
            case Letter():
                self._fold_letter(record, place, said, is_open=False)
                for node in parties:
                    self._insert("party", place[0], node)
            case Words():
                self._fold_words(record, place, said)
            case None if unreadable:
                self._insert("unreadable", place[0], record.hash)

    def _fold_letter(self, record: Record, place: tuple[int, int, int], letter: Letter, *, is_open: bool) -> None:
        self._insert(
            *("letter", *place, rank(record), record.hash, record.header.node, letter.sender.lower(), int(is_open)),
            *(
                int(letter.target.kind != "agent"),
                letter.ticket,
                letter.thread.lower(),
                letter.reply_to,
                letter.key,
                encode_body(letter),
            ),
        )
        if not self._connection.changes():
            return
        self._connection.execute("INSERT INTO arrived (record) VALUES (?)", (place[0],))
        arrival = self._connection.last_insert_rowid()
        for agent in letter.to:
            self._insert("addressed", place[0], agent_key(*agent.key), arrival, 0)
        if letter.target.kind != "agent":
            self._insert("addressed", place[0], letter.target.key, arrival, 0)
        self._connection.execute(
            "INSERT INTO letter_text (rowid, subject, text) VALUES (?, ?, ?)", (place[0], letter.subject, letter.text)
        )

    def _fold_words(self, record: Record, place: tuple[int, int, int], words: Words) -> None:
        about = [(letter, "") for letter in words.letters] if words.letters else [(b"", words.ticket)]
        for at, (letter, ticket) in enumerate(about):
            if not letter and not ticket:
                continue
            self._insert(
                *("word", place[0], at, *place[1:], rank(record), record.header.node, words.agent.lower()),
                *(letter, ticket, words.state, words.status, words.reason),
            )
            self._settle(place, record.header.node, words, letter, ticket)

    def _settle(self, place: tuple[int, int, int], node: NodeId, words: Words, letter: bytes, ticket: str) -> None:
        """Note that what a word is about is unread no more, if the word counts and the letter is here already."""
        if words.state not in ("read", "closed"):
            return
        which, about = ("l.hash = ?", letter) if letter else ("l.ticket = ? AND l.ticket <> ''", ticket)
        only = " AND target = ?" if words.state == "read" else ""
        closing = " AND (NOT l.is_group OR l.node = ?)" if words.state == "closed" else ""
        self._connection.execute(
            f"UPDATE addressed SET settled = 1 WHERE record IN (SELECT l.record FROM letter l WHERE {which}"
            f" AND (l.is_open OR EXISTS (SELECT 1 FROM party p WHERE p.record = l.record AND p.node = ?)){closing})"
            f" AND EXISTS (SELECT 1 FROM chain WHERE id = ? AND upto >= ?) AND settled = 0{only}",
            (
                *(about, node, *([node] if closing else []), place[1], place[2]),
                *([agent_key(words.agent, node)] if only else []),
            ),
        )

    def parties(self, record: int) -> list[NodeId]:
        """Machines that hold a sealed letter; none for an open one."""
        return [NodeId(row[0]) for row in self._rows("SELECT node FROM party WHERE record = ? ORDER BY node", record)]

    # Letters

    def find(self, digits: str) -> list[bytes]:
        """Hashes of records about mail whose handle has these 12 or 64 digits, two at most. Expired ones are among them."""
        first = bytes.fromhex(digits)
        last = first + b"\xff" * (32 - len(first))
        rows = self._rows("SELECT hash, header FROM record WHERE hash BETWEEN ? AND ? LIMIT 16", first, last)
        return [row[0] for row in rows if Header.decode(row[1]).type in LETTERS][:2]

    def is_expired(self, digest: bytes) -> bool:
        """Whether the record is here and its body is gone, or will be in a moment."""
        return self._row("SELECT 1 FROM record WHERE hash = ? AND body IS NULL", digest) is not None

    def letter(self, digest: bytes) -> Mailed | None:
        """A letter by the hash of its record."""
        row = self._row(f"SELECT {_LETTER} WHERE l.hash = ?", digest)
        return None if row is None else _mailed(row)

    def is_for(self, record: int, reader: Reader) -> bool:
        """Whether a letter is for this reader."""
        marks = ", ".join("?" * len(reader.targets))
        row = self._row(f"SELECT 1 FROM addressed WHERE record = ? AND target IN ({marks})", record, *reader.targets)
        return row is not None

    def inbox(
        self,
        reader: Reader,
        *,
        unread: bool = False,
        closed: bool = False,
        tag: str | None = None,
        after: tuple[int, bytes] | None = None,
        limit: int,
    ) -> list[Listed]:
        """A reader's letters: unread first, then newest first. A page goes on after (read, rank) of its last row."""
        seen = (reader.name, reader.node)
        statement, values = self._of(reader, unsettled=unread)
        where = [
            *(["NOT seen"] if unread else []),
            *(["(seen > ? OR (seen = ? AND rank < ?))"] if after else []),
        ]
        # What is large is left where it is until it is known which rows are wanted.
        rows = self._rows(
            f"SELECT * FROM (SELECT l.record AS record, l.rank AS rank, {_READ} AS seen {statement}"
            f"{'' if closed else f' AND NOT {_CLOSED}'}) WHERE {' AND '.join(where) or '1'} ORDER BY seen, rank DESC",
            *(*seen, *values, *(() if closed else (reader.node,)), *((after[0], after[0], after[1]) if after else ())),
        )
        found: list[Listed] = []
        for record, _, is_seen in rows:
            mailed = self._by_row(record)
            if tag is None or tag in mailed.letter.tags:
                status = (self.closed(record, reader.node) or ("",))[0] if closed else ""
                found.append(Listed(mailed, bool(is_seen), status))
                if len(found) == limit:
                    break
        return found

    def unread(self, reader: Reader, *, after: int = 0, limit: int) -> list[Listed]:
        """Letters that are not read and not closed, of arrivals after this number, oldest arrival first."""
        statement, values = self._of(reader, unsettled=True, after=after)
        rows = self._rows(
            f"SELECT l.record, n.number {statement} AND NOT {_READ} AND NOT {_CLOSED} ORDER BY n.number LIMIT ?",
            *(*values, reader.name, reader.node, reader.node, limit),
        )
        return [Listed(self._by_row(row[0]), False, "") for row in list(rows)]

    def count_unread(self, reader: Reader) -> int:
        """How many there are, up to COUNTED."""
        statement, values = self._of(reader, unsettled=True)
        row = self._row(
            f"SELECT count(*) FROM (SELECT 1 {statement} AND NOT {_READ} AND NOT {_CLOSED} LIMIT ?)",
            *(*values, reader.name, reader.node, reader.node, COUNTED),
        )
        assert row is not None
        return int(row[0])

    def closed(self, record: int, me: NodeId) -> tuple[str, str] | None:
        """Status and reason with which a letter was closed last, as this machine sees it."""
        row = self._row(
            "SELECT w.status, w.reason, max(w.rank) FROM live_word w JOIN letter l ON l.record = w.about"
            f" WHERE w.about = ? AND w.state = 'closed' AND {_MAY_CLOSE}",
            *(record, me),
        )
        return None if row is None or row[0] is None else (row[0], row[1])

    def is_read(self, record: int, reader: Reader) -> bool:
        """Whether this reader has read it."""
        row = self._row(
            "SELECT 1 FROM live_word WHERE about = ? AND state = 'read' AND agent = ? AND node = ?",
            *(record, reader.name, reader.node),
        )
        return row is not None

    def words(self, record: int) -> list[Standing]:
        """All that counts of what was said of a letter, in order."""
        rows = self._rows(
            "SELECT node, agent, state, status, reason, rank FROM live_word WHERE about = ? ORDER BY rank", record
        )
        return [Standing(NodeId(row[0]), row[1], row[2], row[3], row[4], clock_of(row[5])) for row in rows]

    def by_key(self, node: NodeId, sender: str, key: str) -> bytes | None:
        """The letter that an agent sent with this key."""
        row = self._row(
            "SELECT hash FROM live_letter WHERE node = ? AND sender = ? AND key = ? AND key <> '' ORDER BY rank LIMIT 1",
            *(node, sender.lower(), key),
        )
        return None if row is None else bytes(row[0])

    def sent(self, node: NodeId, sender: str, *, before: int | None = None, limit: int) -> list[Mailed]:
        """What an agent has sent, newest first, of rows before this one."""
        rows = self._rows(
            f"SELECT {_LETTER} WHERE l.node = ? AND l.sender = ? AND l.record < ? ORDER BY l.record DESC LIMIT ?",
            *(node, sender.lower(), (1 << 62) if before is None else before, limit),
        )
        return [_mailed(row) for row in rows]

    def of_ticket(self, ticket: str, limit: int) -> list[Mailed]:
        """Letters of a ticket that are here."""
        rows = self._rows(f"SELECT {_LETTER} WHERE l.ticket = ? AND l.ticket <> '' LIMIT ?", ticket, limit)
        return [_mailed(row) for row in rows]

    def of_thread(self, thread: str, limit: int) -> list[Mailed]:
        """Letters of a thread that are here, oldest first; the last `limit`."""
        rows = self._rows(
            f"SELECT {_LETTER} WHERE l.thread = ? AND l.thread <> '' ORDER BY l.rank DESC LIMIT ?",
            thread.lower(),
            limit,
        )
        return [_mailed(row) for row in rows][::-1]

    def replies(self, digest: bytes, limit: int) -> list[Mailed]:
        """Letters that answer this one, oldest first."""
        rows = self._rows(
            f"SELECT {_LETTER} WHERE l.reply_to = ? AND l.reply_to <> x'' ORDER BY l.rank LIMIT ?", digest, limit
        )
        return [_mailed(row) for row in rows]

    def reply(self, digest: bytes, reader: Reader) -> Mailed | None:
        """The first letter to this reader that answers this one, from a machine that is party to it. Who only carries a
        question knows its hash as well."""
        marks = ", ".join("?" * len(reader.targets))
        row = self._row(
            f"SELECT {_LETTER} JOIN letter q ON q.hash = l.reply_to WHERE l.reply_to = ? AND l.reply_to <> x''"
            " AND (q.is_open OR EXISTS (SELECT 1 FROM party p WHERE p.record = q.record AND p.node = l.node))"
            f" AND EXISTS (SELECT 1 FROM addressed a WHERE a.record = l.record AND a.target IN ({marks}))"
            " ORDER BY l.rank LIMIT 1",
            *(digest, *reader.targets),
        )
        return None if row is None else _mailed(row)

    def search(self, query: str, *, limit: int) -> list[Mailed]:
        """Letters in which all these words stand, newest first. Whose they are is for the caller to look at."""
        words = " ".join(f'"{word.replace(chr(34), chr(34) * 2)}"' for word in query.split())
        rows = self._rows(
            f"SELECT {_LETTER} WHERE l.record IN (SELECT rowid FROM letter_text WHERE letter_text MATCH ?)"
            " ORDER BY l.rank DESC LIMIT ?",
            *(words, limit),
        )
        return [_mailed(row) for row in rows]

    def unreadable(self, limit: int) -> list[tuple[Header, bytes]]:
        """Mail for this machine that does not open: header and hash."""
        rows = self._rows("SELECT r.header, u.hash FROM unreadable u JOIN record r ON r.id = u.record LIMIT ?", limit)
        return [(Header.decode(row[0]), row[1]) for row in rows]

    def forget_unreadable(self, digest: bytes) -> None:
        """It has been answered."""
        self._connection.execute("DELETE FROM unreadable WHERE hash = ?", (digest,))

    # How far

    def has_reached(self, chain: LogId, sequence: int, node: NodeId) -> bool:
        """Whether a machine says that this letter of an author, which is for it, is there."""
        if self.reached(chain.author, chain.generation, node) < sequence:
            return False
        row = self._row(
            "SELECT 1 FROM withheld w JOIN live_reached r ON r.record = w.record"
            " WHERE w.author = ? AND w.generation = ? AND w.number = ? AND w.node = ?",
            *(chain.author, chain.generation, sequence, node),
        )
        return row is None

    def reached(self, author: bytes, generation: int, node: NodeId) -> int:
        """Up to which number an author's mail for this machine is there, but for what came without a body."""
        row = self._row(
            "SELECT number FROM live_reached WHERE author = ? AND generation = ? AND node = ?"
            " ORDER BY number DESC LIMIT 1",
            *(author, generation, node),
        )
        return 0 if row is None else int(row[0])

    def unacknowledged(self, node: NodeId) -> list[tuple[LogId, int, tuple[int, ...]]]:
        """Chains with letters of others here that this machine has not said to have, up to which number it can say so, and
        the numbers of mail below that came without a body."""
        rows = self._rows(
            "SELECT k.author, k.log, k.generation, (SELECT max(l.sequence) FROM letter l WHERE l.chain = k.id"
            " AND l.sequence <= k.upto) FROM chain k"
        )
        found = [(LogId(row[0], Log(row[1]), row[2]), row[3]) for row in rows if row[3] is not None]
        open_ones = []
        for chain, last in found:
            said = self.reached(chain.author, chain.generation, node)
            if node_id(chain.author) != node and last > said:
                without = self._without_body(chain, said, last)
                upto = last if len(without) <= WITHOUT_LIMIT else without[WITHOUT_LIMIT] - 1
                open_ones.append((chain, upto, tuple(without[:WITHOUT_LIMIT])))
        return open_ones

    def _without_body(self, chain: LogId, after: int, upto: int) -> list[int]:
        """Numbers of mail of a chain without a body, between these: one more than one word names, at most."""
        rows = self._rows(
            "SELECT r.sequence, r.header FROM record r JOIN chain c ON c.id = r.chain WHERE c.author = ? AND c.log = ?"
            " AND c.generation = ? AND r.sequence > ? AND r.sequence <= ? AND r.body IS NULL ORDER BY r.sequence",
            *(chain.author, int(chain.log), chain.generation, after, upto),
        )
        found: list[int] = []
        for sequence, header in rows:
            if Header.decode(header).type in LETTERS:
                found.append(sequence)
                if len(found) > WITHOUT_LIMIT:
                    break
        return found

    # Agents and threads

    def agents(self, most: int) -> list[Agented]:
        """All agents by their last cards, but for those that were removed; of one machine at most so many."""
        rows = self._rows("SELECT node, content, max(rank) FROM live_card GROUP BY node, name ORDER BY node, name")
        found: list[Agented] = []
        counts: defaultdict[bytes, int] = defaultdict(int)
        for row in rows:
            if counts[row[0]] < most and not (card := decode_body(Card, row[1])).removed:
                counts[row[0]] += 1
                found.append(Agented(NodeId(row[0]), card, clock_of(row[2])))
        return found

    def mailboxes(self, node: NodeId) -> list[str]:
        """Names on this machine that mail was addressed to, with a card or without, in lower case."""
        first, last = "agent:", f"@{node.hex()}"
        # From each target to the next one, over all letters that are for the same.
        rows = self._rows(
            "WITH RECURSIVE each (target) AS (SELECT min(target) FROM addressed WHERE target >= ? UNION ALL"
            " SELECT (SELECT min(a.target) FROM addressed a WHERE a.target > each.target) FROM each"
            " WHERE each.target IS NOT NULL LIMIT 4096) SELECT target FROM each",
            first,
        )
        found = [row[0] for row in rows if row[0] and row[0].startswith(first) and row[0].endswith(last)]
        return [target.removeprefix(first).removesuffix(last) for target in found[:1024]]

    def topics(self, node: NodeId) -> list[tuple[str, str, bytes, int]]:
        """Threads: name, description, hash of the record that says so last (empty: none does), letters here. Those in
        which this machine wrote come first: anybody may make others."""
        rows = self._rows("SELECT content, hash, name, max(rank) FROM live_topic GROUP BY name ORDER BY name")
        counts = dict(
            self._connection.execute("SELECT thread, count(*) FROM live_letter WHERE thread <> '' GROUP BY thread")
        )
        found = []
        for row in rows:
            topic = decode_body(Thread, row[0])
            found.append((topic.name, topic.description, bytes(row[1]), counts.pop(row[2], 0)))
        found += [(name, "", b"", count) for name, count in counts.items()]
        ours = {row[0] for row in self._rows("SELECT DISTINCT thread FROM live_letter WHERE node = ?", node)}
        return sorted(found, key=lambda each: (each[0].lower() not in ours, each))

    # Comparison

    def contents(self) -> dict[str, Iterator[tuple[Any, ...]]]:
        """Rows of the views that are the same on all machines, for their digests."""
        return {
            "agents": self._rows(
                "SELECT node, name, content FROM (SELECT node, name, content, max(rank) FROM live_card GROUP BY node, name)"
                " ORDER BY 1, 2"
            ),
            "mail": self._rows(
                "SELECT node, author, generation, max(number) FROM live_reached GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
            ),
            "threads": self._rows(
                "SELECT name, content FROM (SELECT name, content, max(rank) FROM live_topic GROUP BY name) ORDER BY 1"
            ),
        }

    def _of(self, reader: Reader, *, unsettled: bool = False, after: int = 0) -> tuple[str, tuple[Any, ...]]:
        """The reader's letters `l` of arrivals after a number: the end of a statement, and its values. `unsettled` leaves out
        what is known to be read or closed."""
        marks = ", ".join("?" * len(reader.targets))
        statement = (
            "FROM live_letter l JOIN arrived n ON n.record = l.record"
            f" WHERE l.record IN (SELECT record FROM addressed WHERE target IN ({marks}) AND arrival > ?"
            f"{' AND settled = 0' if unsettled else ''})"
            # Nobody is told of their own letter, unless they wrote to themselves by name.
            " AND (l.node <> ? OR l.sender <> ? OR EXISTS"
            " (SELECT 1 FROM addressed a WHERE a.record = l.record AND a.target = ?))"
        )
        own = agent_key(reader.name, reader.node)
        return statement, (*reader.targets, after, reader.node, reader.name, own)

    def _by_row(self, record: int) -> Mailed:
        row = self._row(f"SELECT {_LETTER} WHERE l.record = ?", record)
        assert row is not None  # it was found in the same look
        return _mailed(row)

    def _insert(self, table: str, *values: Any) -> None:
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)

    def _rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(statement, values)

    def _row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        return next(self._rows(statement, *values), None)


def _mailed(row: Sequence[Any]) -> Mailed:
    header = Header.decode(row[6])
    return Mailed(
        row[0],
        row[7],
        bytes(row[1]),
        NodeId(row[2]),
        bytes(row[3]),
        decode_body(Letter, row[4]),
        row[5],
        header.ttl,
        header.chain,
        header.sequence,
    )
