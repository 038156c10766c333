"""What labd needs of the host itself: processes, paths, configuration, locks and facts."""
