"""Phase 1: build buildkitd and buildctl natively.

:mod:`.source` finds upstream's source, :mod:`.toolchain` finds Go, :mod:`.compile` runs it,
:mod:`.build` publishes the artifacts, :mod:`.check` checks them, :mod:`.verify` compiles them
again and compares, :mod:`.bundle` adds the programs that the commands run.
"""
