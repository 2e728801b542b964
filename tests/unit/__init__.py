"""Unit tests mirror the package: no docker, no network, no Go, seconds in all."""
