"""Words of labd as plain values: specs, states, events, errors, names and units. No I/O happens here."""
