"""The environment of scenarios: a docker engine, a registry, the loopback network."""
