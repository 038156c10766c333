"""Disks, images and checkpoints in folders of this host."""
