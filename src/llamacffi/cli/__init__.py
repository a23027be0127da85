"""The command `llamacffi`: thin, it translates and does not decide."""

from llamacffi.cli.group import main

__all__ = ["main"]
