-- Addresses that labd's dnsmasq gave out, as the last events told them.

CREATE TABLE leases (
    lab     TEXT NOT NULL REFERENCES labs (name) ON DELETE CASCADE,
    address TEXT NOT NULL,
    network TEXT NOT NULL,
    mac     TEXT NOT NULL,
    name    TEXT NOT NULL,
    node    TEXT NOT NULL,
    nic     TEXT NOT NULL,
    PRIMARY KEY (lab, address)
) STRICT;
