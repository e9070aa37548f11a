"""Files as wholes: read completely, or replaced completely, with errors that name the file.

A result appears under its name only when it is finished. Until then it lies in the same folder
under a temporary name that no listing of audio or streams picks up, and it is removed when the
work fails, so that a crash or a full disk never leaves half a file behind.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from telucodec.errors import TelucodecError


def read_bytes(path: Path) -> bytes:
    """The whole content of ``path``.

    Raises:
        TelucodecError: there is no such file, it is a folder, or it cannot be read.
    """
    check_readable(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise TelucodecError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def read_blocks(path: Path, n_bytes: int = 1 << 16) -> Iterator[bytes]:
    """The content of ``path`` in pieces of at most ``n_bytes``; raises as `read_bytes`."""
    check_readable(path)
    try:
        with path.open("rb") as file:
            while block := file.read(n_bytes):
                yield block
    except OSError as error:
        raise TelucodecError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def check_readable(path: Path) -> None:
    """Refuse what is not a file, saying what is there instead."""
    if path.is_dir():
        raise TelucodecError(f"{path} is a folder; expected a file")
    if not path.exists():
        raise TelucodecError(f"{path} does not exist; check the name")


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an existing output unless ``overwrite``, and a folder always."""
    if path.is_dir():
        raise TelucodecError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise TelucodecError(f"{path} exists; pass --overwrite to replace it")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; it takes the name ``path`` when the block ends without an error.

    Missing parent folders are created. Whatever was at ``path`` before stays untouched on failure.

    Raises:
        TelucodecError: the folder or the file cannot be written; anything else that the block raises
            passes through after the temporary file is removed.
    """
    temporary = path.with_name(f".telucodec-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TelucodecError(
            f"cannot write {path}: {reason}; choose another place or free some space"
        ) from error
    finally:
        with suppress(OSError):  # it may never have been made; the error that led here is the one to show
            temporary.unlink()
