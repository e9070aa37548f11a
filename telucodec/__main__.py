"""``python -m telucodec``, the same program as the command ``telucodec``."""

from telucodec.cli import app

if __name__ == "__main__":
    app(prog_name="telucodec")
