"""BuildKit for RISC-V, built and tested on RISC-V.

One subpackage per phase: :mod:`~buildkit_riscv64.binaries`, :mod:`~buildkit_riscv64.image`,
:mod:`~buildkit_riscv64.validation`, and for phase 4 :mod:`~buildkit_riscv64.packages`,
:mod:`~buildkit_riscv64.release` and :mod:`~buildkit_riscv64.upstream`.
:mod:`~buildkit_riscv64.machine` runs tasks on other machines. `docs/architecture.md` describes
the other subpackages.
"""
