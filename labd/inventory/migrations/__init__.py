"""Numbered SQL files; file `NNNN_name.sql` takes the schema from version NNNN-1 to NNNN."""
