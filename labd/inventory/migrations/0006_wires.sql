-- What `lab link set` said of NICs, over what their templates say.

CREATE TABLE wires (
    lab    TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    node   TEXT NOT NULL,
    nic    TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (lab, node, nic)
) STRICT;
