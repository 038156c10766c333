-- Classes; `record` is JSON of labd.model.classes.ClassRecord.

CREATE TABLE classes (
    name   TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
