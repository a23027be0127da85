"""`python -m llamacffi` is the command `llamacffi`."""

from llamacffi.cli import main

main()
