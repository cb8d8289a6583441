-- The index of one replica. One row of `meta` holds what is not about a path.
CREATE TABLE meta (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    device    BLOB NOT NULL,
    folder    BLOB,
    life      INTEGER NOT NULL,   -- IndexId, as a signed 64-bit word
    sequence  INTEGER NOT NULL,
    knowledge BLOB NOT NULL,
    role      INTEGER NOT NULL,
    asides    INTEGER NOT NULL
) STRICT;

CREATE TABLE fence (
    epoch  INTEGER PRIMARY KEY,
    holder BLOB NOT NULL,
    base   BLOB NOT NULL
) STRICT;

-- The devices that entries name, by a number that is shorter.
CREATE TABLE device (
    number INTEGER PRIMARY KEY,
    id     BLOB NOT NULL UNIQUE
) STRICT;

CREATE TABLE entry (
    id       INTEGER PRIMARY KEY,
    path     BLOB NOT NULL UNIQUE,
    sequence INTEGER NOT NULL UNIQUE,
    writer   INTEGER NOT NULL,    -- a device's number
    epoch    INTEGER NOT NULL,
    version  BLOB NOT NULL,       -- pairs of device number and counter
    kind     BLOB NOT NULL,       -- what stands there, in its wire encoding
    seen     BLOB,                -- the fingerprint of what stands on the disk
    stale    INTEGER NOT NULL,
    size     INTEGER              -- of a live file
) STRICT;

-- Where a chunk can be found. Eight bytes of its hash lead there; whoever reads it checks all of them.
CREATE TABLE chunk (
    hash   INTEGER NOT NULL,
    entry  INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (hash, entry, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer (
    device BLOB PRIMARY KEY,
    theirs INTEGER,
    have   INTEGER NOT NULL,
    ours   INTEGER,
    acked  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The live entries that are copies kept by a conflict.
CREATE TABLE conflict (
    kept_as BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Versions that were about to become visible at the last commit.
CREATE TABLE plan (
    path    BLOB NOT NULL,
    kind    BLOB NOT NULL,
    version BLOB NOT NULL,
    writer  BLOB NOT NULL,
    epoch   INTEGER NOT NULL
) STRICT;

PRAGMA user_version = 1;

INSERT INTO meta VALUES (1, zeroblob(32), NULL, 9, 7, x'00000000', 0, 3);
