"""Two layers of codes in one packet: the network's stages of variable depth, and the refinement behind them.

    varint  bytes of the first layer
    bytes   the network's stages, as in mode 3
    bytes   the stages of the refinement, as in mode 1, if the packet has any

Each layer has tables of its own. No torch here.

Shapes: Q codebooks (stages of both layers), L frames.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import ENTROPY_MODES, TABLES_HASH_BYTES, single
from telucodec.bitstream.packet import Incomplete, read_varint, write_varint
from telucodec.errors import BitstreamError
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.tables import Tables

REFINEMENT_TABLES = "refinement.npz"
"""Beside the weights, where streams of high rates are refined."""

N_BASE = 16
"""Stages of the network in a refined stream, if it has so many: later ones buy less than the refinement."""


class LayeredCoder:
    """Packets of both layers as bytes; see `telucodec.bitstream.coder.PacketCoder`.

    Args:
        base: of the network's stages, of which `N_BASE` are written at most.
        refinement: of the stages behind them.
    """

    mode = ENTROPY_MODES["refined"]

    def __init__(self, base: EntropyCoder, refinement: EntropyCoder) -> None:
        self.base, self.refinement = base, refinement
        self.n_base = min(base.n_codebooks, N_BASE)
        joined = base.tables_hash + refinement.tables_hash
        self.tables_hash = hashlib.sha256(joined).digest()[:TABLES_HASH_BYTES]

    @classmethod
    def load(cls, folder: Path) -> "LayeredCoder":
        """The coder of the weights in ``folder``; `ModelError` if not all tables lie beside them."""
        refinement = EntropyCoder.from_tables(Tables.load(folder / REFINEMENT_TABLES))
        return cls(EntropyCoder.load(folder, is_variable=True), refinement)

    def encode(self, codes: Codes) -> bytes:
        """See `PacketCoder.encode`; `ValueError` as `EntropyCoder.encode` raises it."""
        return self.encode_all([codes])[0]

    def encode_all(self, packets: Sequence[Codes]) -> list[bytes]:
        """See `PacketCoder.encode_all`."""
        n_base = self.n_base
        bases = self.base.encode_all([codes[:n_base] for codes in packets])
        refined = iter(
            self.refinement.encode_all([codes[n_base:] for codes in packets if len(codes) > n_base])
        )
        return [
            joined(base, next(refined) if len(codes) > n_base else b"")
            for codes, base in zip(packets, bases, strict=True)
        ]

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """See `PacketCoder.decode`."""
        return single(self.decode_all([(data, n_frames)], n_codebooks))

    def decode_all(
        self, packets: Sequence[tuple[bytes, int]], n_codebooks: int
    ) -> list[Codes | BitstreamError]:
        """See `PacketCoder.decode_all`."""
        n_base = min(n_codebooks, self.n_base)
        n_behind = n_codebooks - n_base
        layers = [_parted(data) for data, _ in packets]
        sizes = [n_frames for _, n_frames in packets]
        found = self.base.decode_all([(base, n) for (base, _), n in zip(layers, sizes, strict=True)], n_base)
        if n_behind:
            rests = [(rest, n) for (_, rest), n in zip(layers, sizes, strict=True)]
            behind = self.refinement.decode_all(rests, n_behind)
            found = [_stacked(*parts) for parts in zip(found, behind, strict=True)]
        complaints = [_complaint(data, has_refinement=n_behind > 0) for data, _ in packets]
        return [
            BitstreamError(complaint) if complaint else item
            for complaint, item in zip(complaints, found, strict=True)
        ]


def joined(base: bytes, refinement: bytes) -> bytes:
    """The payload of two layers."""
    return write_varint(len(base)) + base + refinement


def _parted(data: bytes) -> tuple[bytes, bytes]:
    """The inverse of `joined`; empty or short layers where `_complaint` has one."""
    try:
        n_bytes, at = read_varint(data, 0)
    except (Incomplete, BitstreamError):
        return b"", b""
    return data[at : at + n_bytes], data[at + n_bytes :]


def _complaint(data: bytes, *, has_refinement: bool) -> str | None:
    """Why no two layers are joined as ``data`` is; None if they may be."""
    try:
        n_bytes, at = read_varint(data, 0)
    except Incomplete:
        return f"{len(data)} bytes of two layers end inside the number they begin with"
    except BitstreamError as error:
        return str(error)
    n_left = len(data) - at
    if n_bytes > n_left:
        return f"a first layer of {n_bytes} bytes is announced; {n_left} follow"
    if n_bytes < n_left and not has_refinement:
        return f"{n_left - n_bytes} bytes of a refinement in a stream that has no stages of one"
    return None


def _stacked(base: Codes | BitstreamError, refinement: Codes | BitstreamError) -> Codes | BitstreamError:
    if isinstance(base, BitstreamError):
        return base
    if isinstance(refinement, BitstreamError):
        return refinement
    return np.vstack([base, refinement])
