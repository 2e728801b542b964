"""`python -m buildkit_riscv64`: the command line, started by `./invoke`."""

from .program import main

main()
