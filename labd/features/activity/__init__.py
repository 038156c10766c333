"""When labs were used last."""
