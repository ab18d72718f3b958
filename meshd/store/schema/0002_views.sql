-- Views: what the data records say, one row a statement. Every row carries the place of its record, and counts only
-- while its chain's `upto` reaches that far: a change of who belongs to the mesh costs one row a chain, not a fold.
-- Questions go to the live_ views below, which hold that rule once.

CREATE TABLE handle (         -- values, blobs and trees
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,         -- clock, author, hash: the one order on which all machines agree
  tab TEXT NOT NULL,          -- the table, or `blob`, or `tree`
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,      -- bytes of the content; children of a tree
  inline INTEGER NOT NULL,    -- 1: the content itself is in the record
  detail BLOB NOT NULL        -- BLAKE3 of the body without its tags
) STRICT;
CREATE INDEX handle_digest ON handle (digest, tab);
CREATE INDEX handle_table ON handle (tab, digest);

-- The first full digest that each short form stood for here. It outlives the content.
CREATE TABLE binding (
  tab TEXT NOT NULL,
  prefix BLOB NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (tab, prefix)
) STRICT, WITHOUT ROWID;

CREATE TABLE tagged (         -- one word about one tag of one handle
  record INTEGER NOT NULL REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  tab TEXT NOT NULL,
  digest BLOB NOT NULL,
  tag TEXT NOT NULL,
  state INTEGER NOT NULL,     -- 1: put on, 0: taken off
  PRIMARY KEY (record, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX tagged_handle ON tagged (tab, digest, tag);
CREATE INDEX tagged_tag ON tagged (tag, tab, digest);

CREATE TABLE addressee (      -- machines that are to fetch a blob
  record INTEGER NOT NULL REFERENCES record (id),
  node BLOB NOT NULL,
  PRIMARY KEY (record, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX addressee_node ON addressee (node);

CREATE TABLE held (           -- blobs that their addressees say they have
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  node BLOB NOT NULL,
  digest BLOB NOT NULL,
  size INTEGER NOT NULL
) STRICT;
CREATE INDEX held_digest ON held (digest, node);

CREATE TABLE reachable (      -- addresses that machines name as theirs
  record INTEGER PRIMARY KEY REFERENCES record (id),
  chain INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  rank BLOB NOT NULL,
  node BLOB NOT NULL,
  detail BLOB NOT NULL
) STRICT;
CREATE INDEX reachable_node ON reachable (node, rank);

-- A body that goes takes with it all that was folded from it: no code can forget to.
CREATE TRIGGER record_dropped AFTER UPDATE OF body ON record WHEN NEW.body IS NULL BEGIN
  DELETE FROM handle WHERE record = OLD.id;
  DELETE FROM tagged WHERE record = OLD.id;
  DELETE FROM addressee WHERE record = OLD.id;
  DELETE FROM held WHERE record = OLD.id;
  DELETE FROM reachable WHERE record = OLD.id;
END;

CREATE VIEW live_handle AS
  SELECT h.* FROM handle h JOIN chain c ON c.id = h.chain AND h.sequence <= c.upto;

CREATE VIEW live_held AS
  SELECT h.* FROM held h JOIN chain c ON c.id = h.chain AND h.sequence <= c.upto;

CREATE VIEW live_reachable AS
  SELECT r.* FROM reachable r JOIN chain c ON c.id = r.chain AND r.sequence <= c.upto;

-- The tags that are on: of all that counts about one, the last by rank. SQLite takes `state` from the row with max().
CREATE VIEW live_tag AS
  SELECT tab, digest, tag FROM (
    SELECT t.tab, t.digest, t.tag, t.state, max(t.rank)
    FROM tagged t JOIN chain c ON c.id = t.chain AND t.sequence <= c.upto
    GROUP BY t.tag, t.tab, t.digest
  ) WHERE state = 1;
