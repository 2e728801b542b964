"""Benchmarks of this project's tasks and artifacts.

Run one as `python -m benchmarks.NAME`. Each writes its samples to
`benchmarks/results/`; :mod:`benchmarks.report` generates `docs/benchmarks.md`
from all results.
"""
