-- What the third version of the schema adds to the second.

-- Versions that left the folder (see the module `branch`); their contents are in `aside/`.
CREATE TABLE branch (
    number INTEGER PRIMARY KEY,
    device BLOB NOT NULL,
    epoch  INTEGER NOT NULL,
    over   INTEGER NOT NULL,
    cause  INTEGER NOT NULL,
    began  INTEGER NOT NULL
) STRICT;

CREATE TABLE kept (
    branch INTEGER NOT NULL,
    path   BLOB NOT NULL,
    what   INTEGER NOT NULL,      -- 0 a file, 1 a symlink, 2 a deletion
    root   BLOB NOT NULL,
    size   INTEGER NOT NULL,
    writer BLOB NOT NULL,
    base   BLOB NOT NULL,
    PRIMARY KEY (branch, path)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 3;
