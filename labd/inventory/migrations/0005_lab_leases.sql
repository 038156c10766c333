-- Until when labs may run; `record` is JSON of labd.model.lab_leases.LabLease.

CREATE TABLE lab_leases (
    lab    TEXT PRIMARY KEY REFERENCES labs (name) ON DELETE CASCADE,
    record TEXT NOT NULL
) STRICT;
