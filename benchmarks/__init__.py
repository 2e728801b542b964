"""What this project costs, measured beside the plain way of doing the same.

Run one as `python -m benchmarks.NAME`. Each writes its samples to
`benchmarks/results/`, and :mod:`benchmarks.report` makes `docs/benchmarks.md`
of all that is there.
"""
