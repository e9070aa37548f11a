"""Codes of packets to bytes and back, under any `Predictor`.

Both directions visit the same batches with the same odds. A decoder asks for the odds of one batch
after the other; an encoder knows what later batches depend on, and asks for many at once. A packet
needs nothing but the predictor: packets decode alone, in any order, and several side by side only
because it is faster. Codes have one spelling in bytes: what was decoded is encoded again, and other
bytes are refused. Damaged bytes may still be the spelling of other codes, so a packet needs its checksum.

Shapes: Q codebooks, L frames.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.bitstream.coder import ENTROPY_MODES, TABLES_HASH_BYTES, single
from telucodec.bitstream.rangecoder import TOTAL_BITS, Frequencies, RangeReader, RangeWriter
from telucodec.errors import BitstreamError
from telucodec.prior.depths import Depths, depth_odds, depth_table, depths_of
from telucodec.prior.network import NETWORK, Codebooks, Network, read_codebooks
from telucodec.prior.predictor import (
    BATCH,
    Columns,
    NetworkPredictor,
    Predictor,
    Sheet,
    TablePredictor,
    blank_sheet,
)
from telucodec.prior.tables import TABLES, Tables

MAX_FRAMES = 1 << 12  # of one packet
SIDE_BY_SIDE = 2 * BATCH  # frames of packets that are decoded together


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
        self.predictor = predictor

    @property
    def mode(self) -> int:
        """The entropy mode in the header."""
        return ENTROPY_MODES["variable" if self.is_variable else "static"]

    @property
    def n_codebooks(self) -> int:
        """Stages that the predictor knows."""
        return self.predictor.n_codebooks

    @classmethod
    def from_tables(cls, tables: Tables, *, is_variable: bool = False) -> "EntropyCoder":
        """A coder with static tables alone."""
        return cls(TablePredictor(tables), tables.hash, is_variable=is_variable)

    @classmethod
    def from_network(
        cls, tables: Tables, network: Network, codebooks: Codebooks, *, is_variable: bool = False
    ) -> "EntropyCoder":
        """A coder with tables, and a network that knows the codebooks ``[Q, K, D]``.

        Raises:
            ModelError: they do not fit each other.
        """
        predictor = NetworkPredictor(tables, network, codebooks)
        joined = hashlib.sha256(tables.hash + network.hash).digest()[:TABLES_HASH_BYTES]
        return cls(predictor, joined, is_variable=is_variable)

    @classmethod
    def load(cls, folder: Path, *, is_variable: bool = False) -> "EntropyCoder":
        """The coder of the weights in ``folder``; `ModelError` if no tables lie beside them."""
        tables = Tables.load(folder / TABLES)
        if not (folder / NETWORK).is_file():
            return cls.from_tables(tables, is_variable=is_variable)
        network = Network.load(folder / NETWORK)
        return cls.from_network(tables, network, read_codebooks(folder), is_variable=is_variable)

    def encode(self, codes: Codes) -> bytes:
        """Codes ``[Q, L]`` of the first Q stages, 1 to 4096 frames, as bytes.

        Raises:
            ValueError: more stages or frames than the tables or a packet can hold, a code too large, or one
                absent where it must not be.
        """
        return self.encode_all([codes])[0]

    def encode_all(self, packets: Sequence[Codes]) -> list[bytes]:
        """What `encode` makes of each packet, in less time."""
        packets = [np.ascontiguousarray(codes, dtype=np.uint16) for codes in packets]
        lanes = [_Lane(self._checked_depths(codes)) for codes in packets]
        found: list[bytes] = []
        for run in _runs([len(lane.depths) for lane in lanes], BATCH):
            self._write(lanes[run], packets[run])
            found += [lane.writer.finish() for lane in lanes[run]]
        return found

    def _checked_depths(self, codes: Codes) -> Depths:
        """Stages that each frame has; raises what `encode` does."""
        complaint = self._complaint(*codes.shape) if codes.ndim == 2 else f"codes have {codes.ndim} axes"
        if complaint:
            raise ValueError(complaint)
        n_codebooks, n_frames = codes.shape
        depths = depths_of(codes) if self.is_variable else np.full(n_frames, n_codebooks)
        largest = int((np.where(codes == ABSENT, 0, codes) if self.is_variable else codes).max())
        if largest >= self.predictor.codebook_size:
            raise ValueError(f"code {largest} is too large; these tables know {self.predictor.codebook_size}")
        return depths

    def _write(self, lanes: list["_Lane"], packets: Sequence[Codes]) -> None:
        sheet = self._sheet(lanes)
        n_stages = max(map(len, packets))
        for lane, codes in zip(lanes, packets, strict=True):
            if self.is_variable:
                lane.writer.write(lane.depths - 1, depth_odds(lane.depths, len(codes)))
                codes = np.where(codes == ABSENT, self.predictor.codebook_size, codes)
            sheet.codes[lane.start : lane.start + len(lane.depths), : len(codes)] = codes.T
        units = [
            _Unit(lane, stage, columns[at : at + BATCH])
            for stage in range(n_stages)
            for lane in lanes
            for columns in [lane.columns(stage)]
            for at in range(0, len(columns), BATCH)
        ]
        for run in _runs([len(unit.columns) for unit in units], BATCH):
            self._write_units(sheet, units[run])

    def _write_units(self, sheet: Sheet, units: list["_Unit"]) -> None:
        parts = [(unit.stage, unit.columns) for unit in units]
        odds = self.predictor.odds(sheet, parts)
        symbols = self.predictor.symbols
        groups, places = np.divmod(
            np.concatenate([symbols[stage].take(sheet.codes[columns, stage]) for stage, columns in parts]),
            self.predictor.group_size,
        )
        inside = odds.inside(groups)
        first = 0
        for unit in units:
            for batch in self.predictor.batches(unit.stage, unit.columns):
                rows = slice(first, first + len(batch))
                unit.lane.writer.write(groups[rows], odds.groups[rows])
                unit.lane.writer.write(places[rows], inside[rows])
                first = rows.stop

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """The inverse of `encode`: codes ``[n_codebooks, n_frames]``.

        Raises:
            BitstreamError: no codes of this shape have these bytes.
        """
        return single(self.decode_all([(data, n_frames)], n_codebooks))

    def decode_all(
        self, packets: Sequence[tuple[bytes, int]], n_codebooks: int
    ) -> list[Codes | BitstreamError]:
        """What `decode` makes of the bytes of packets of so many frames, or raises for them, in less time."""
        lanes = [self._opened(data, n_codebooks, n_frames) for data, n_frames in packets]
        found: list[Codes | BitstreamError] = []
        for run in _runs([len(lane.depths) for lane in lanes], SIDE_BY_SIDE):
            sheet = self._read(lanes[run], n_codebooks)
            for lane, (data, _) in zip(lanes[run], packets[run], strict=True):
                codes = sheet.codes[lane.start : lane.start + len(lane.depths), :n_codebooks].T
                if lane.error is None and lane.writer.finish() != data:
                    lane.error = BitstreamError(
                        f"{len(data)} bytes of coded symbols are not what their {codes.size} codes "
                        "are written as"
                    )
                is_there = codes != self.predictor.codebook_size  # what a sheet has for none
                found.append(lane.error or np.where(is_there, codes, ABSENT).astype(np.uint16))
        return found

    def _opened(self, data: bytes, n_codebooks: int, n_frames: int) -> "_Lane":
        """A lane to read ``data``, its depths already read; one without frames if there is no such packet."""
        complaint = self._complaint(n_codebooks, n_frames)
        limit = (2 * n_codebooks + 1) * n_frames * TOTAL_BITS // 8 + 8
        if not complaint and len(data) > limit:
            complaint = f"{len(data)} bytes of coded symbols; a packet of this shape takes {limit}"
        if complaint:
            return _Lane(np.zeros(0, dtype=np.int64), error=BitstreamError(complaint))
        lane = _Lane(np.full(n_frames, n_codebooks), RangeReader(data))
        if self.is_variable:
            table, depth = depth_table(n_codebooks), 0
            for frame in range(n_frames):
                depth = 1 + int(lane.read(table[depth : depth + 1])[0])
                lane.depths[frame] = depth
        return lane

    def _read(self, lanes: list["_Lane"], n_codebooks: int) -> Sheet:
        sheet = self._sheet(lanes)
        for stage in range(n_codebooks):
            batches = [self.predictor.batches(stage, lane.columns(stage)) for lane in lanes]
            for number in range(max(map(len, batches))):
                units = [
                    _Unit(lane, stage, columns[number])
                    for lane, columns in zip(lanes, batches, strict=True)
                    if number < len(columns)
                ]
                self._read_units(sheet, stage, units)
        return sheet

    def _read_units(self, sheet: Sheet, stage: int, units: list["_Unit"]) -> None:
        """Codes of one stage that nothing else among ``units``, `SIDE_BY_SIDE` codes at most, waits for."""
        columns = units[0].columns if len(units) == 1 else np.concatenate([unit.columns for unit in units])
        odds = self.predictor.odds(sheet, [(stage, columns)])
        groups = _symbols(units, odds.groups)
        places = _symbols(units, odds.inside(groups))
        sheet.codes[columns, stage] = self.predictor.codewords[stage].take(
            groups * self.predictor.group_size + places
        )
        self._check(sheet, units)

    def _check(self, sheet: Sheet, units: list["_Unit"]) -> None:
        """Give up lanes in which ``units`` have a symbol of no codeword: the last group is filled up."""
        size = self.predictor.codebook_size
        if size % self.predictor.group_size:
            for unit in units:
                if unit.lane.error is None and (sheet.codes[unit.columns, unit.stage] == size).any():
                    unit.lane.error = BitstreamError(
                        f"stage {unit.stage} has a symbol beyond those of its {size} codewords"
                    )

    def _sheet(self, lanes: list["_Lane"]) -> Sheet:
        """A sheet with room for ``lanes``, which are told where."""
        sheet, starts = blank_sheet([len(lane.depths) for lane in lanes], self.predictor)
        for lane, start in zip(lanes, starts, strict=True):
            lane.lay(start)
            if self.is_variable:
                sheet.depths[start : start + len(lane.depths)] = lane.depths
        return sheet

    def _complaint(self, n_codebooks: int, n_frames: int) -> str | None:
        if not 1 <= n_codebooks <= self.predictor.n_codebooks:
            return f"n_codebooks is {n_codebooks}; these tables know 1 to {self.predictor.n_codebooks}"
        if not 1 <= n_frames <= MAX_FRAMES:
            return f"a packet of {n_frames} frames; expected 1 to {MAX_FRAMES}"
        return None


@dataclass(slots=True)
class _Lane:
    """One of the packets coded side by side."""

    depths: Depths  # [L]
    reader: RangeReader | None = None
    writer: RangeWriter = field(default_factory=RangeWriter)  # of what was read, too
    start: int = 0  # its first column on the sheet
    error: BitstreamError | None = None  # why it was given up: the others go on
    _all: Columns = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _least: int = 0  # of the depths

    def lay(self, start: int) -> None:
        """Place it on a sheet, its depths being known."""
        self.start = start
        self._all = np.arange(start, start + len(self.depths))
        self._least = int(self.depths.min(initial=0))

    def columns(self, stage: int) -> Columns:
        """Of the frames that have a code in ``stage``; none once the packet was given up."""
        if self.error is not None:
            return self._all[:0]
        return self._all if stage < self._least else self._all[self.depths > stage]

    def read(self, table: Frequencies) -> NDArray[np.int32]:
        """The next symbols, written again; zeros once they are damaged."""
        if self.error is None and self.reader is not None:
            try:
                symbols = self.reader.read(table)
            except BitstreamError as error:
                self.error = error
            else:
                self.writer.write(symbols, table)
                return symbols
        return np.zeros(len(table), dtype=np.int32)


class _Unit(NamedTuple):
    """Codes of one stage of one packet."""

    lane: _Lane
    stage: int
    columns: Columns


def _symbols(units: list[_Unit], table: Frequencies) -> NDArray[np.int32]:
    """Symbols of all ``units``, each read by its lane under its rows of ``table``."""
    if len(units) == 1:
        return units[0].lane.read(table)
    found, first = np.empty(len(table), dtype=np.int32), 0
    for unit in units:
        rows = slice(first, first + len(unit.columns))
        found[rows] = unit.lane.read(table[rows])
        first = rows.stop
    return found


def _runs(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Neighbors together, as many as have a sum of ``sizes`` up to ``limit``, but at least one."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > limit:
            yield slice(first, place)
            first, total = place, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))
