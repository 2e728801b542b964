"""The test matrix."""
