"""Unit tests of phase 4: automation."""
