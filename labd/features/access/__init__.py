"""Who may do what: owners and tokens."""
