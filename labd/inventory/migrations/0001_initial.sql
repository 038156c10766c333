-- Specs, machines and other values that are only ever read whole are JSON; what must be unique, or
-- is looked at by people with sqlite3, is a column.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE labs (
    name     TEXT PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    wanted   TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    created  TEXT NOT NULL,
    spec     TEXT NOT NULL,
    previous TEXT
) STRICT;

CREATE TABLE nodes (
    lab     TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    key     TEXT NOT NULL UNIQUE,
    uuid    TEXT NOT NULL UNIQUE,
    uid     INTEGER NOT NULL UNIQUE,
    wanted  TEXT NOT NULL,
    state   TEXT NOT NULL,
    since   TEXT NOT NULL,
    reason  TEXT NOT NULL,
    starts  INTEGER NOT NULL,
    pid     INTEGER,
    ticks   INTEGER,
    boot_id TEXT,
    machine TEXT,
    PRIMARY KEY (lab, name)
) STRICT;

CREATE TABLE operations (
    n        INTEGER PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL,
    lab      TEXT NOT NULL,
    state    TEXT NOT NULL,
    created  TEXT NOT NULL,
    finished TEXT NOT NULL,
    request  TEXT NOT NULL,
    progress TEXT NOT NULL,
    error    TEXT
) STRICT;

CREATE TABLE images (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE profiles (
    name   TEXT PRIMARY KEY,
    image  TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE plugins (
    name       TEXT PRIMARY KEY,
    enabled    INTEGER NOT NULL,
    settings   TEXT NOT NULL,
    token_hash TEXT NOT NULL
) STRICT;

-- The outbox. `seq` is given by labd, not by SQLite: a rolled back transaction leaves no gap.
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    time      TEXT NOT NULL,
    type      TEXT NOT NULL,
    lab       TEXT NOT NULL,
    node      TEXT NOT NULL,
    operation TEXT NOT NULL,
    subject   TEXT NOT NULL,
    data      TEXT NOT NULL
) STRICT;
