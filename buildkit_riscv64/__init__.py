"""BuildKit for RISC-V, built on RISC-V and proved to work there.

Shared by every phase: :mod:`~buildkit_riscv64.errors`,
:mod:`~buildkit_riscv64.process`, :mod:`~buildkit_riscv64.arch`,
:mod:`~buildkit_riscv64.host`, :mod:`~buildkit_riscv64.pins`,
:mod:`~buildkit_riscv64.dist`, :mod:`~buildkit_riscv64.config`.
One subpackage per phase: :mod:`~buildkit_riscv64.binaries` is the first.
"""
