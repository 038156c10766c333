"""What labd does, one folder a noun."""
