"""BuildKit for RISC-V, built on RISC-V and proved to work there.

One subpackage per phase: :mod:`~buildkit_riscv64.binaries`, :mod:`~buildkit_riscv64.image`,
:mod:`~buildkit_riscv64.validation`, :mod:`~buildkit_riscv64.automation`; and
:mod:`~buildkit_riscv64.machine`, which runs them elsewhere. Beside them is what they share.
`docs/architecture.md` leads through it.
"""
