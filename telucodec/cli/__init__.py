"""The command line. The only room that imports typer; it and its screen are the only ones that print.

Each command parses, calls one room, and shows the result. Results go to stdout, so they can be
piped; progress, remarks and errors go to stderr. Status 0: done; 1: an error the user can fix;
2: wrong usage; a traceback is a bug. torch is imported inside the commands, so ``--help`` answers
at once.
"""

from telucodec.cli import coding, evaluating, training  # each adds its commands
from telucodec.cli.root import app

__all__ = ["app", "coding", "evaluating", "training"]
