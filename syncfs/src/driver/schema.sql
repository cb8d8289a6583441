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

CREATE TABLE entry (
    path     BLOB PRIMARY KEY,
    sequence INTEGER NOT NULL UNIQUE,
    record   BLOB NOT NULL,       -- the record's wire encoding, version byte first
    seen     BLOB,                -- the fingerprint of what stands on the disk
    stale    INTEGER NOT NULL,
    size     INTEGER              -- of a live file
) STRICT, WITHOUT ROWID;

CREATE TABLE chunk (
    hash   BLOB NOT NULL,
    path   BLOB NOT NULL,
    start  INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (path, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_hash ON chunk (hash);

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

PRAGMA user_version = 1;
