-- Whose labs are, whose what events and operations tell of was, and the tokens of people; `record`
-- is JSON of labd.model.people.TokenRecord. The tokens themselves are kept nowhere.

ALTER TABLE labs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN lab_key TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN lab_key TEXT NOT NULL DEFAULT '';

CREATE TABLE tokens (
    name   TEXT PRIMARY KEY,
    hash   TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;
