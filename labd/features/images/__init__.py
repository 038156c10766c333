"""Images and VM profiles."""
