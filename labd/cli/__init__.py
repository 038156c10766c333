"""The `lab` command. Importing it stays cheap: click and the standard library at the top only."""
