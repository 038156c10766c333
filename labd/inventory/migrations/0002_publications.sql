-- Ports of the host at which labd listens for nodes. host_port is what the template asks for, 0 for
-- any; chosen is what it came to.

CREATE TABLE publications (
    lab       TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    node      TEXT NOT NULL,
    address   TEXT NOT NULL,
    host_port INTEGER NOT NULL,
    port      INTEGER NOT NULL,
    chosen    INTEGER NOT NULL,
    PRIMARY KEY (lab, node, address, host_port, port)
) STRICT;
