"""Codes of one packet to bytes and back, under any `Predictor`.

Both directions visit the same batches with the same odds. A decoder asks for the odds of one batch
after the other; an encoder knows what later batches depend on, and asks for many at once. A packet
needs nothing but the predictor: packets decode alone, in any order. Codes have one spelling in
bytes: what was decoded is encoded again, and other bytes are refused. Damaged bytes may still be
the spelling of other codes, so a packet needs its checksum.

Shapes: Q codebooks, L frames, N frames of one batch.
"""

from pathlib import Path

import numpy as np

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.bitstream.coder import ENTROPY_MODES
from telucodec.bitstream.rangecoder import TOTAL_BITS, RangeReader, RangeWriter
from telucodec.errors import BitstreamError
from telucodec.prior.depths import depth_odds, depths_of
from telucodec.prior.predictor import BATCH, GROUP, Frames, Odds, Predictor, TablePredictor
from telucodec.prior.tables import TABLES, Tables

MAX_FRAMES = 1 << 12  # of one packet


class EntropyCoder:
    """Packets of codes as bytes. ``mode`` and ``tables_hash`` are what a header says about it.

    One coder may serve any number of streams; it keeps no state of theirs.

    Args:
        is_variable: each frame may end at its own stage, its later codes being `ABSENT`; the packet
            begins with the depths of its frames.
    """

    def __init__(self, predictor: Predictor, tables_hash: bytes, *, is_variable: bool = False) -> None:
        self.tables_hash = tables_hash
        self.is_variable = is_variable
        self._predictor = predictor

    @property
    def mode(self) -> int:
        """The entropy mode in the header."""
        return ENTROPY_MODES["variable" if self.is_variable else "static"]

    @classmethod
    def from_tables(cls, tables: Tables, *, is_variable: bool = False) -> "EntropyCoder":
        """A coder with static tables."""
        return cls(TablePredictor(tables), tables.hash, is_variable=is_variable)

    @classmethod
    def load(cls, folder: Path, *, is_variable: bool = False) -> "EntropyCoder":
        """The coder of the weights in ``folder``; `ModelError` if no tables lie beside them."""
        return cls.from_tables(Tables.load(folder / TABLES), is_variable=is_variable)

    def encode(self, codes: Codes) -> bytes:
        """Codes ``[Q, L]`` of the first Q stages, 1 to 4096 frames, as bytes.

        Raises:
            ValueError: more stages or frames than the tables or a packet can hold, a code too large, or one
                absent where it must not be.
        """
        codes = np.ascontiguousarray(codes, dtype=np.uint16)
        complaint = self._complaint(*codes.shape) if codes.ndim == 2 else f"codes have {codes.ndim} axes"
        if complaint:
            raise ValueError(complaint)
        n_codebooks, n_frames = codes.shape
        depths = depths_of(codes) if self.is_variable else np.full(n_frames, n_codebooks)
        largest = int(np.max(codes, where=np.arange(n_codebooks)[:, None] < depths, initial=0))
        if largest >= self._predictor.codebook_size:
            raise ValueError(
                f"code {largest} is too large; these tables know {self._predictor.codebook_size}"
            )
        writer = RangeWriter()
        if self.is_variable:
            writer.write(depths - 1, depth_odds(depths, n_codebooks))

        for stage in range(int(depths.max())):
            self._write_stage(writer, codes, stage, np.flatnonzero(depths > stage))
        return writer.finish()

    def _write_stage(self, writer: RangeWriter, codes: Codes, stage: int, frames: Frames) -> None:
        """Write ``codes[stage, frames]`` in the batches that `decode` reads, their odds found together."""
        for start in range(0, len(frames), BATCH):
            known = frames[start : start + BATCH]
            odds = self._predictor.odds(codes, stage, known)
            groups, places = codes[stage, known] // GROUP, codes[stage, known] % GROUP
            inside = odds.inside(groups)
            first = 0
            for batch in self._predictor.batches(stage, known):
                rows = slice(first, first + len(batch))
                writer.write(groups[rows], odds.groups[rows])
                writer.write(places[rows], inside[rows])
                first = rows.stop

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """The inverse of `encode`: codes ``[n_codebooks, n_frames]``.

        Raises:
            BitstreamError: no codes of this shape have these bytes.
        """
        complaint = self._complaint(n_codebooks, n_frames)
        if complaint:
            raise BitstreamError(complaint)
        limit = (2 * n_codebooks + 1) * n_frames * TOTAL_BITS // 8 + 8
        if len(data) > limit:
            raise BitstreamError(f"{len(data)} bytes of coded symbols; a packet of this shape takes {limit}")
        reader, writer = RangeReader(data), RangeWriter()
        depths = np.full(n_frames, n_codebooks)
        if self.is_variable:
            for frame in range(n_frames):
                depths[frame] = reader.read(depth_odds(depths[: frame + 1], n_codebooks)[-1:])[0] + 1
            writer.write(depths - 1, depth_odds(depths, n_codebooks))
        codes = np.where(np.arange(n_codebooks)[:, None] < depths, 0, ABSENT).astype(np.uint16)

        def read(stage: int, frames: Frames, odds: Odds) -> None:
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

        for stage in range(int(depths.max())):
            for frames in self._predictor.batches(stage, np.flatnonzero(depths > stage)):
                read(stage, frames, self._predictor.odds(codes, stage, frames))
        if writer.finish() != data:
            raise BitstreamError(
                f"{len(data)} bytes of coded symbols are not what their {codes.size} codes are written as"
            )
        return codes

    def _complaint(self, n_codebooks: int, n_frames: int) -> str | None:
        if not 1 <= n_codebooks <= self._predictor.n_codebooks:
            return f"n_codebooks is {n_codebooks}; these tables know 1 to {self._predictor.n_codebooks}"
        if not 1 <= n_frames <= MAX_FRAMES:
            return f"a packet of {n_frames} frames; expected 1 to {MAX_FRAMES}"
        return None
