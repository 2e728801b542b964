"""Unit tests of buildkit_riscv64.image."""
