"""Programs for developers: set-up, checks and the demo."""
