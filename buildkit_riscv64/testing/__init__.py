"""`invoke test`: the capabilities of this host, the test run, and its counts."""
