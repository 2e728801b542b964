"""A running BuildKit daemon, its builders and its certificates."""
