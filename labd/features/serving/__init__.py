"""What labd serves in labs: DHCP, DNS, and the addresses that follow."""
