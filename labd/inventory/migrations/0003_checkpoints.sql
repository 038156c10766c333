CREATE TABLE checkpoints (
    name   TEXT PRIMARY KEY,
    key    TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;

-- Key of the checkpoint from which a lab was started; empty for one that was booted.
ALTER TABLE labs ADD COLUMN origin TEXT NOT NULL DEFAULT '';
