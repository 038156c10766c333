"""Words of labd as plain values: specs, states, events, errors and names. No I/O here."""
