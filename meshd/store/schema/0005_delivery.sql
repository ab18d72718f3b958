-- How agents of this machine are told of mail: docs/protocol/mail.md, "Wake". Local: none of it is replicated.

-- The row of the empty name is for all agents: only its `is_paused` means something.
CREATE TABLE deliveries (
    agent     TEXT PRIMARY KEY NOT NULL COLLATE NOCASE CHECK (length(agent) <= 63),
    method    TEXT NOT NULL DEFAULT 'none' CHECK (method IN ('none', 'tmux', 'exec')),
    -- JSON: a pane with its pins, or a program with its arguments.
    target    TEXT NOT NULL DEFAULT '{}',
    is_paused INTEGER NOT NULL DEFAULT 0 CHECK (is_paused IN (0, 1)),
    -- What it was told and has not read, as hashes one after another: a new start does not tell it again.
    batch     BLOB NOT NULL DEFAULT x'' CHECK (length(batch) % 32 = 0),
    told_ms   INTEGER,
    reminders INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
