-- Records as they came, and what this machine knows beside them.

-- One row a chain: its head, so that a comparison of heads costs a row a chain however long the chains are.
CREATE TABLE chain (
  id INTEGER PRIMARY KEY,
  author BLOB NOT NULL,
  log INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  sequence INTEGER NOT NULL DEFAULT 0,  -- of the last record held; 0: none yet
  hash BLOB NOT NULL DEFAULT x'',       -- of that record
  bytes INTEGER NOT NULL DEFAULT 0,     -- of all its records as they came, for quotas and lag
  upto INTEGER NOT NULL DEFAULT 0x7fffffffffffffff,  -- views show records up to this one; set from the roster
  waits_from INTEGER,                   -- first record that is in quarantine: it and all after it are not folded
  UNIQUE (author, log, generation)
) STRICT;

CREATE TABLE record (
  id INTEGER PRIMARY KEY,
  chain INTEGER NOT NULL REFERENCES chain (id),
  sequence INTEGER NOT NULL,
  hash BLOB NOT NULL,
  header BLOB NOT NULL,     -- as signed
  signature BLOB NOT NULL,
  body BLOB,                -- NULL once it is dropped; the header stays, or the chain would break
  born_ms INTEGER NOT NULL, -- counted time of arrival less the age with which it came
  arrived_ms INTEGER NOT NULL,
  due_ms INTEGER            -- counted time at which the body goes; NULL: never, or gone
) STRICT;
CREATE UNIQUE INDEX record_place ON record (chain, sequence);
CREATE UNIQUE INDEX record_hash ON record (hash);
CREATE INDEX record_due ON record (due_ms) WHERE due_ms IS NOT NULL;

-- Local facts, never replicated: settings of this mesh, its secrets, the count of time.
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Where members may be reached. `node` is empty for an address given by hand whose machine is not known yet.
CREATE TABLE address (
  node BLOB NOT NULL,
  host TEXT NOT NULL,
  port INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('by hand', 'remembered', 'learnt')),
  added_ms INTEGER NOT NULL,
  last_ok_ms INTEGER,
  PRIMARY KEY (node, host, port, kind)
) STRICT, WITHOUT ROWID;

-- Machines that the person at this one will have nothing to do with.
CREATE TABLE blocked (
  node BLOB PRIMARY KEY,
  since_ms INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
