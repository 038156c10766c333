-- Warm pools, by key of their checkpoint, and the forks that they keep ready; `record` is JSON of
-- labd.model.pools.PoolRecord and PoolMember.

CREATE TABLE pools (
    checkpoint TEXT PRIMARY KEY,
    record     TEXT NOT NULL
) STRICT;

CREATE TABLE pool_members (
    key    TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
