"""Phase 3: proof that it works, and the evidence of it.

The scenarios are in `tests/validation/`, a folder for each suite. What runs them,
what became of each, and what may be concluded from that is here. docs/validation.md
is for those who read it.
"""
