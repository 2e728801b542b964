"""A riscv64 machine for everyone: an emulated one, or a board reached by ssh.

:mod:`.base` makes the emulated machine's disk from Debian's packages,
:mod:`.machines` creates, starts and stops machines, :mod:`.remote` runs our
tasks on one of them or on a board.
"""
