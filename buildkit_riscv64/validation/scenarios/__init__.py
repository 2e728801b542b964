"""Phase 3: scenarios for the artifacts in dist/. `invoke validate` runs them.

Each suite has a directory. Each test is a scenario: the first line of its docstring is
the scenario's title in the evidence.
"""
