"""Arrays of integers on disk, checked when they are read, and the hash by which streams name them."""

import hashlib
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from telucodec.errors import ModelError
from telucodec.files import replacing

_UNREADABLE = (  # what numpy and the library raise for a damaged file
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Integers:
    """Arrays that a subclass names; ``ModelError`` on construction if they do not fit each other."""

    AXES: ClassVar[dict[str, int]]  # of each array, in the order of the hash

    def __post_init__(self) -> None:
        complaint = self._complaint()
        if complaint:
            raise ModelError(f"the entropy tables are damaged or of another version: {complaint}")

    def dtypes(self) -> dict[str, type]:
        """Of each array, in the order of the hash."""
        raise NotImplementedError

    @cached_property
    def hash(self) -> bytes:
        """First 8 bytes of the SHA-256 of name, shape and little-endian values of each array."""
        digest = hashlib.sha256()
        for name, dtype in self.dtypes().items():
            array = getattr(self, name)
            digest.update(f"{name}{list(array.shape)}".encode())
            digest.update(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        return digest.digest()[:8]

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz``; the file takes its name only when it is complete."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            ModelError: the file is missing, unreadable, or holds other arrays.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in cls.AXES}
        except _UNREADABLE as error:
            raise ModelError(f"cannot read the entropy tables {path}: {error}; fit them again") from error
        return cls(**arrays)

    def _complaint(self) -> str | None:
        """Why these arrays are not what they should be; subclasses go on with shapes and values."""
        axes = {name: getattr(self, name).ndim for name in self.AXES}
        if axes != self.AXES or not all(getattr(self, name).size for name in self.AXES):
            return f"axes of arrays are {axes}; expected {self.AXES}, and none empty"
        for name, dtype in self.dtypes().items():
            array = getattr(self, name)
            if array.dtype != dtype:
                return f"{name} is {array.dtype}; expected {np.dtype(dtype)}"
        return None

    def _complaint_about_shapes(self, shapes: dict[str, tuple[int, ...]]) -> str | None:
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f"{name} has shape {getattr(self, name).shape}; expected {shape}"
        return None
