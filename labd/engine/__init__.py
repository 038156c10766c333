"""The use-cases of labd. It sees the world only through `labd.engine.ports`."""
