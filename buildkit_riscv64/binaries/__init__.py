"""Phase 1: buildkitd and buildctl, compiled on the machine that they are for.

:mod:`.source` finds upstream and :mod:`.toolchain` Go; :mod:`.compile` runs it;
:mod:`.build` makes of that the artifacts, :mod:`.check` looks at them,
:mod:`.verify` compiles them once more to compare. What they run comes with
:mod:`.bundle`.
"""
