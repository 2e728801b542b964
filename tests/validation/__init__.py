"""Phase 3: real scenarios against what is in dist/. `invoke validate` runs them.

One folder for each suite. A test is a scenario: the first line of its docstring is
what the evidence calls it.
"""
