"""Unit tests of phase 1."""
