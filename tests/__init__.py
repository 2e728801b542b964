"""The tests: `unit` mirrors the package, `integration` is a user at the command line."""
