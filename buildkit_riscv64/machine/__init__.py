"""riscv64 machines: an emulated machine, or a board reached by ssh.

:mod:`.base_disk` makes the emulated machine's disk from Debian's packages.
:mod:`.machines` creates, starts and stops machines. :mod:`.remote` runs tasks
on a machine or a board.
"""
