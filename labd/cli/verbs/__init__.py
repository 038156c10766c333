"""One module a verb or a tight family; imported when it is asked for."""
