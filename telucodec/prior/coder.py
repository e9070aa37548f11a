"""Codes of one packet to bytes and back, under any `Predictor`.

Both directions visit the same batches with the same odds in `_walk`, so they cannot drift apart.
A packet needs nothing but the predictor: packets decode alone, in any order. Codes have one
spelling in bytes: what was decoded is encoded again, and other bytes are refused. Damaged bytes
may still be the spelling of other codes, so a packet needs its checksum.

Shapes: Q codebooks, L frames, N frames of one batch.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.rangecoder import TOTAL_BITS, RangeReader, RangeWriter
from telucodec.errors import BitstreamError
from telucodec.prior.predictor import GROUP, Odds, Predictor, TablePredictor
from telucodec.prior.tables import TABLES, Tables

MODE_STATIC = 1
MAX_FRAMES = 1 << 12  # of one packet


class EntropyCoder:
    """Packets of codes as bytes. ``mode`` and ``tables_hash`` are what a header says about it.

    One coder may serve any number of streams; it keeps no state of theirs.
    """

    mode = MODE_STATIC

    def __init__(self, predictor: Predictor, tables_hash: bytes) -> None:
        self.tables_hash = tables_hash
        self._predictor = predictor

    @classmethod
    def from_tables(cls, tables: Tables) -> "EntropyCoder":
        """A coder with static tables."""
        return cls(TablePredictor(tables), tables.hash)

    @classmethod
    def load(cls, folder: Path) -> "EntropyCoder":
        """The coder of the weights in ``folder``; `ModelError` if no tables lie beside them."""
        return cls.from_tables(Tables.load(folder / TABLES))

    def encode(self, codes: Codes) -> bytes:
        """Codes ``[Q, L]`` of the first Q stages, 1 to 4096 frames, as bytes.

        Raises:
            ValueError: more stages or frames than the tables or a packet can hold, or a code too large.
        """
        codes = np.ascontiguousarray(codes, dtype=np.uint16)
        complaint = self._complaint(*codes.shape) if codes.ndim == 2 else f"codes have {codes.ndim} axes"
        if complaint:
            raise ValueError(complaint)
        if int(codes.max()) >= self._predictor.codebook_size:
            raise ValueError(
                f"code {int(codes.max())} is too large; these tables know {self._predictor.codebook_size}"
            )
        writer = RangeWriter()

        def write(stage: int, frames: slice, odds: Odds) -> None:
            groups = codes[stage, frames] // GROUP
            writer.write(groups, odds.groups)
            writer.write(codes[stage, frames] % GROUP, odds.inside(groups))

        self._walk(codes, write)
        return writer.finish()

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """The inverse of `encode`: codes ``[n_codebooks, n_frames]``.

        Raises:
            BitstreamError: no codes of this shape have these bytes.
        """
        complaint = self._complaint(n_codebooks, n_frames)
        if complaint:
            raise BitstreamError(complaint)
        limit = n_codebooks * n_frames * 2 * TOTAL_BITS // 8 + 8
        if len(data) > limit:
            raise BitstreamError(f"{len(data)} bytes of coded symbols; a packet of this shape takes {limit}")
        codes = np.zeros((n_codebooks, n_frames), dtype=np.uint16)
        reader, writer = RangeReader(data), RangeWriter()

        def read(stage: int, frames: slice, odds: Odds) -> None:
            groups = reader.read(odds.groups)
            inside = odds.inside(groups)
            places = reader.read(inside)
            found = groups * GROUP + places
            largest = self._predictor.codebook_size - 1
            if int(found.max()) > largest:
                raise BitstreamError(f"code {int(found.max())} in stage {stage}; expected 0 to {largest}")
            codes[stage, frames] = found
            writer.write(groups, odds.groups)
            writer.write(places, inside)

        self._walk(codes, read)
        if writer.finish() != data:
            raise BitstreamError(
                f"{len(data)} bytes of coded symbols are not what their {codes.size} codes are written as"
            )
        return codes

    def _walk(self, codes: Codes, visit: Callable[[int, slice, Odds], None]) -> None:
        for stage in range(codes.shape[0]):
            for frames in self._predictor.batches(stage, codes.shape[1]):
                visit(stage, frames, self._predictor.odds(codes, stage, frames))

    def _complaint(self, n_codebooks: int, n_frames: int) -> str | None:
        if not 1 <= n_codebooks <= self._predictor.n_codebooks:
            return f"n_codebooks is {n_codebooks}; these tables know 1 to {self._predictor.n_codebooks}"
        if not 1 <= n_frames <= MAX_FRAMES:
            return f"a packet of {n_frames} frames; expected 1 to {MAX_FRAMES}"
        return None
