-- Mail, as far as this machine can read it, and where it stands. The rules of 0002_views.sql hold: a row a statement, with
-- the place of its record, and it counts while its chain's `upto` reaches that far.

CREATE TABLE letter (         -- messages that this machine wrote, or that are for it
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  hash BLOB NOT NULL,         -- of the record: what its handle is made of
  node BLOB NOT NULL,         -- the machine that signed it
  sender TEXT NOT NULL,       -- its agent, lower case
  is_open INTEGER NOT NULL,   -- 1: every member reads it, so that every member is party to it
  is_group INTEGER NOT NULL,  -- 1: to more than agents by name; only its author closes it for others
  ticket TEXT NOT NULL,
  thread TEXT NOT NULL,       -- lower case
  reply_to BLOB NOT NULL,
  key TEXT NOT NULL,
  content BLOB NOT NULL       -- the letter, MessagePack
) STRICT;
CREATE UNIQUE INDEX letter_hash ON letter (hash);
CREATE INDEX letter_place ON letter (chain, sequence);
CREATE INDEX letter_sender ON letter (node, sender);
CREATE INDEX letter_ticket ON letter (ticket) WHERE ticket <> '';
CREATE INDEX letter_thread ON letter (thread, rank) WHERE thread <> '';
CREATE INDEX letter_reply ON letter (reply_to, rank) WHERE reply_to <> x'';
CREATE INDEX letter_key ON letter (node, sender, key) WHERE key <> '';

CREATE TABLE arrived (        -- the order in which messages became readable here: after quarantine, later than their records
  number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, also when the last one has expired
  record INTEGER NOT NULL UNIQUE REFERENCES record (id)
) STRICT;

CREATE TABLE addressed (      -- to whom: agents by name and machine, and the target as it was given
  record INTEGER NOT NULL REFERENCES record (id),
  target TEXT NOT NULL,
  arrival INTEGER NOT NULL,   -- the letter's number in `arrived`
  -- 1: a word that counts says that it is closed, or read by the one agent of this target. Whoever looks for unread mail
  -- passes over these, and asks the words about all others.
  settled INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (target, record)
) STRICT, WITHOUT ROWID;
CREATE INDEX addressed_record ON addressed (record);
CREATE INDEX addressed_unsettled ON addressed (target, arrival) WHERE settled = 0;

CREATE TABLE party (          -- machines that hold a sealed letter: its author's, and those that it is sealed for
  record INTEGER NOT NULL REFERENCES record (id),
  node BLOB NOT NULL,
  PRIMARY KEY (record, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE word (           -- what became of a letter, or of a ticket's
  record INTEGER NOT NULL REFERENCES record (id),
  place INTEGER NOT NULL,     -- among the letters of one record
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  node BLOB NOT NULL,         -- the machine that says so
  agent TEXT NOT NULL,        -- lower case; empty: the machine itself
  letter BLOB NOT NULL,       -- hash; empty where `ticket` says which
  ticket TEXT NOT NULL,
  state TEXT NOT NULL,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (record, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX word_letter ON word (letter, node, state) WHERE letter <> x'';
CREATE INDEX word_ticket ON word (ticket, node) WHERE ticket <> '';

CREATE TABLE reached (        -- how far a chain's mail has come on a machine that it is for
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  node BLOB NOT NULL,
  author BLOB NOT NULL,
  generation INTEGER NOT NULL,
  number INTEGER NOT NULL
) STRICT;
CREATE INDEX reached_chain ON reached (author, generation, node, number);

CREATE TABLE withheld (       -- numbers below that which came there without a body: as expired, perhaps by a carrier's word alone
  author BLOB NOT NULL,
  generation INTEGER NOT NULL,
  number INTEGER NOT NULL,
  node BLOB NOT NULL,
  record INTEGER NOT NULL REFERENCES reached (record) ON DELETE CASCADE,
  PRIMARY KEY (author, generation, number, node, record)
) STRICT, WITHOUT ROWID;
CREATE INDEX withheld_record ON withheld (record);

CREATE TABLE unreadable (     -- mail for this machine that does not open
  record INTEGER PRIMARY KEY REFERENCES record (id),
  hash BLOB NOT NULL
) STRICT;

CREATE TABLE card (           -- what agents say of themselves
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  node BLOB NOT NULL,
  name TEXT NOT NULL,         -- lower case
  content BLOB NOT NULL
) STRICT;
CREATE INDEX card_agent ON card (node, name, rank);

CREATE TABLE topic (          -- named threads
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  hash BLOB NOT NULL,
  name TEXT NOT NULL,         -- lower case
  content BLOB NOT NULL
) STRICT;
CREATE INDEX topic_name ON topic (name, rank);

-- Words of letters, for searching; the rowid is the record's.
CREATE VIRTUAL TABLE letter_text USING fts5 (subject, text, content = '', contentless_delete = 1);

CREATE TRIGGER record_dropped_mail AFTER UPDATE OF body ON record WHEN NEW.body IS NULL BEGIN
  DELETE FROM letter_text WHERE rowid = OLD.id AND EXISTS (SELECT 1 FROM letter WHERE record = OLD.id);
  DELETE FROM letter WHERE record = OLD.id;
  DELETE FROM arrived WHERE record = OLD.id;
  DELETE FROM addressed WHERE record = OLD.id;
  DELETE FROM party WHERE record = OLD.id;
  DELETE FROM word WHERE record = OLD.id;
  DELETE FROM reached WHERE record = OLD.id;
  DELETE FROM unreadable WHERE record = OLD.id;
  DELETE FROM card WHERE record = OLD.id;
  DELETE FROM topic WHERE record = OLD.id;
END;

-- Words that counted may count no more.
CREATE TRIGGER chain_cut_mail AFTER UPDATE OF upto ON chain WHEN NEW.upto < OLD.upto BEGIN
  UPDATE addressed SET settled = 0 WHERE settled = 1;
END;

CREATE VIEW live_letter AS
  SELECT l.* FROM letter l JOIN chain c ON c.id = l.chain AND l.sequence <= c.upto;

-- A word counts when its machine is party to the letter; one about a ticket counts for the letters of that ticket to which
-- its machine is party.
-- Asked from the letter and its parties on: what strangers say, however much, is not even looked at.
CREATE VIEW live_word AS
  SELECT l.record AS about, w.rank, w.node, w.agent, w.state, w.status, w.reason
  FROM letter l CROSS JOIN party p ON p.record = l.record CROSS JOIN word w ON w.letter = l.hash AND w.node = p.node
    CROSS JOIN chain c ON c.id = w.chain AND w.sequence <= c.upto
  WHERE w.letter <> x'' AND NOT l.is_open
  UNION ALL
  SELECT l.record, w.rank, w.node, w.agent, w.state, w.status, w.reason
  FROM letter l CROSS JOIN party p ON p.record = l.record CROSS JOIN word w ON w.ticket = l.ticket AND w.node = p.node
    CROSS JOIN chain c ON c.id = w.chain AND w.sequence <= c.upto
  WHERE w.ticket <> '' AND l.ticket <> '' AND NOT l.is_open
  UNION ALL
  SELECT l.record, w.rank, w.node, w.agent, w.state, w.status, w.reason
  FROM letter l CROSS JOIN word w ON w.letter = l.hash CROSS JOIN chain c ON c.id = w.chain AND w.sequence <= c.upto
  WHERE w.letter <> x'' AND l.is_open
  UNION ALL
  SELECT l.record, w.rank, w.node, w.agent, w.state, w.status, w.reason
  FROM letter l CROSS JOIN word w ON w.ticket = l.ticket CROSS JOIN chain c ON c.id = w.chain AND w.sequence <= c.upto
  WHERE w.ticket <> '' AND l.ticket <> '' AND l.is_open;

CREATE VIEW live_reached AS
  SELECT r.* FROM reached r JOIN chain c ON c.id = r.chain AND r.sequence <= c.upto;

CREATE VIEW live_card AS
  SELECT a.* FROM card a JOIN chain c ON c.id = a.chain AND a.sequence <= c.upto;

CREATE VIEW live_topic AS
  SELECT t.* FROM topic t JOIN chain c ON c.id = t.chain AND t.sequence <= c.upto;
