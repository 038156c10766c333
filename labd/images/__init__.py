"""The image store: files by digest, header checks, overlays, downloads and recipes."""
