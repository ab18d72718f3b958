-- What this machine holds by content: docs/protocol/blobs.md, "On disk".
-- A row says "held, whole, durable": it is written after the bytes are, and removed before they are.

CREATE TABLE blobs (
    digest      BLOB PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    size        INTEGER NOT NULL CHECK (size >= 0),
    list_digest BLOB NOT NULL CHECK (length(list_digest) = 32),
    is_file     INTEGER NOT NULL CHECK (is_file IN (0, 1)),
    -- Found to be other bytes than its digest says; kept, so that the good chunks of it need not travel again.
    is_damaged  INTEGER NOT NULL DEFAULT 0 CHECK (is_damaged IN (0, 1)),
    added_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX blobs_by_age ON blobs (added_ms, digest);

-- Content of 64 KiB at most. A table of its own, so that a walk over `blobs` reads none of it.
CREATE TABLE blob_contents (
    digest  BLOB PRIMARY KEY NOT NULL,
    content BLOB NOT NULL
) STRICT;

-- Chunk digests, one after another, of blobs of more than one chunk: for the others the blob's digest is the list.
CREATE TABLE blob_lists (
    digest BLOB PRIMARY KEY NOT NULL,
    list   BLOB NOT NULL
) STRICT;

-- Wanted for good, held or not yet.
CREATE TABLE blob_pins (
    digest   BLOB PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which blobs a directory's manifest names: who keeps the manifest keeps them.
CREATE TABLE blob_parts (
    whole BLOB NOT NULL CHECK (length(whole) = 32),
    part  BLOB NOT NULL CHECK (length(part) = 32),
    PRIMARY KEY (whole, part)
) STRICT, WITHOUT ROWID;

CREATE INDEX blob_parts_by_part ON blob_parts (part);
