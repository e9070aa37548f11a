"""Other codecs as anchors: Opus and Codec2 run live through their own programs, any others from a CSV file.

A live anchor encodes the clip as our codec reads it (one channel, at our rate, 16 bits) with the program
that its authors ship, default settings except where a line below says so, and decodes its file again. The
rate is counted from the bytes of that file.

Shapes: T samples.
"""

import csv
import math
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from telucodec.audio import read_audio, to_pcm, writing
from telucodec.errors import ConfigError, TelucodecError
from telucodec.evaluate.report import Row
from telucodec.evaluate.signals import Exact, at_rate
from telucodec.files import read_bytes, replacing

OPUS_KBPS = (6.0, 256.0)
CODEC2_KBPS = {"3200": 3.2, "2400": 2.4, "1600": 1.6, "1400": 1.4, "1300": 1.3, "1200": 1.2, "700C": 0.7}
CODEC2_HZ = 8_000
CODEC2_FRAME = 320  # samples: 40 ms, the longest of all modes; what does not fill a frame is not encoded
PACKAGES = {"opusenc": "opus-tools", "opusdec": "opus-tools", "c2enc": "codec2", "c2dec": "codec2"}
CSV_METRICS = {  # other names that columns of `read_stored` may have
    "pesq": "pesq_wb",
    "snr": "snr_db",
    "sisdr": "si_sdr_db",
}


@dataclass(frozen=True, kw_only=True)
class Coded:
    """What a codec made of a clip."""

    estimate: Exact  # [T'], its delay and length as the codec left them
    file_bytes: int
    payload_bytes: int
    encode_s: float  # of wall time, reading and writing files and the start of a program included
    decode_s: float
    n_codebooks: int = 0


class Anchor(Protocol):
    """A codec to compare with."""

    @property
    def name(self) -> str:
        """As it is shown: family and nominal rate in kbps."""

    @property
    def kbps(self) -> float:
        """The nominal rate."""

    def run(self, reference: Exact, rate_hz: int, target: Path) -> Coded:
        """Through the file ``target`` plus a suffix; the decoded audio stays beside it."""


@dataclass(frozen=True, slots=True)
class Opus:
    """libopus through opus-tools: variable rate, tuned for speech, frames of 20 ms."""

    kbps: float
    programs: ClassVar[tuple[str, ...]] = ("opusenc", "opusdec")

    @property
    def name(self) -> str:
        return f"opus {self.kbps:g}"

    def run(self, reference: Exact, rate_hz: int, target: Path) -> Coded:
        """Raises `TelucodecError` if a program fails."""
        source, coded, decoded = (_beside(target, end) for end in (".in.wav", ".opus", ".wav"))
        with writing(source, rate_hz) as write:
            write(reference)
        settings = ("--quiet", "--speech", "--padding", "0", "--bitrate", f"{self.kbps:g}")
        encode_s = _run("opusenc", *settings, str(source), str(coded))
        decode_s = _run("opusdec", "--quiet", "--no-dither", "--rate", str(rate_hz), str(coded), str(decoded))
        source.unlink()
        wav, _ = read_audio(decoded, rate_hz)
        data = coded.read_bytes()
        return Coded(
            estimate=wav[0].numpy().astype(np.float64),
            file_bytes=len(data),
            payload_bytes=ogg_payload_bytes(data),
            encode_s=encode_s,
            decode_s=decode_s,
        )


@dataclass(frozen=True, slots=True)
class Codec2:
    """Codec2 through c2enc and c2dec: speech at 8 kHz, resampled on both sides."""

    mode: str
    programs: ClassVar[tuple[str, ...]] = ("c2enc", "c2dec")

    @property
    def kbps(self) -> float:
        return CODEC2_KBPS[self.mode]

    @property
    def name(self) -> str:
        return f"codec2 {self.kbps:g}"

    def run(self, reference: Exact, rate_hz: int, target: Path) -> Coded:
        """Raises `TelucodecError` if a program fails."""
        source, coded, decoded = (_beside(target, end) for end in (".in.raw", ".c2bits", ".raw"))
        narrow = at_rate(reference, rate_hz, CODEC2_HZ)
        narrow = np.pad(narrow, (0, -narrow.size % CODEC2_FRAME))
        with replacing(source) as temporary:
            temporary.write_bytes(to_pcm(narrow, str(target)).astype("<i2").tobytes())
        encode_s = _run("c2enc", self.mode, str(source), str(coded))
        decode_s = _run("c2dec", self.mode, str(coded), str(decoded))
        samples = np.frombuffer(decoded.read_bytes(), dtype="<i2") / 32_768
        for path in (source, decoded):
            path.unlink()
        estimate = at_rate(samples, CODEC2_HZ, rate_hz)
        with writing(_beside(target, ".wav"), rate_hz) as write:
            write(estimate)
        n_bytes = coded.stat().st_size  # frames alone, no header
        return Coded(
            estimate=estimate,
            file_bytes=n_bytes,
            payload_bytes=n_bytes,
            encode_s=encode_s,
            decode_s=decode_s,
        )


def parse_anchors(text: str) -> list[Opus | Codec2]:
    """``opus:8,codec2:3200``: Opus at so many kbps, Codec2 in that mode, in the order given, each once.

    Raises:
        ConfigError: a codec or mode that is not known, or a program that is not installed.
    """
    anchors: dict[str, Opus | Codec2] = {}
    for item in filter(None, text.split(",")):
        anchor = _parse(item.strip())
        anchors[anchor.name] = anchor
    for program in dict.fromkeys(program for anchor in anchors.values() for program in anchor.programs):
        if shutil.which(program) is None:
            raise ConfigError(
                f"{program} is not installed; Debian and Ubuntu have it in the package {PACKAGES[program]}"
            )
    return list(anchors.values())


def _parse(item: str) -> Opus | Codec2:
    family, _, setting = item.partition(":")
    if family == "codec2" and setting in CODEC2_KBPS:
        return Codec2(setting)
    low, high = OPUS_KBPS
    if family == "opus":
        try:
            kbps = float(setting)
        except ValueError:
            kbps = math.nan
        if low <= kbps <= high:
            return Opus(kbps)
    raise ConfigError(
        f"no anchor {item!r}; expected opus:KBPS with {low:g} to {high:g} kbps, or codec2:MODE with one of "
        f"{', '.join(CODEC2_KBPS)}"
    )


def ogg_payload_bytes(data: bytes) -> int:
    """Bytes of the audio packets of an Ogg Opus file (RFC 3533, 7845): no page headers, no two first packets.

    Raises:
        TelucodecError: it is not a sequence of whole Ogg pages.
    """
    packets = [0]
    start = 0
    while start < len(data):
        n_segments = data[start + 26] if len(data) >= start + 27 else 0
        body = start + 27 + n_segments
        lacing = data[start + 27 : body]
        if data[start : start + 4] != b"OggS" or body + sum(lacing) > len(data):
            raise TelucodecError(f"not an Ogg file: no whole page at byte {start}")
        for size in lacing:
            packets[-1] += size
            if size < 255:  # the last segment of a packet
                packets.append(0)
        start = body + sum(lacing)
    return sum(packets[2:])


@dataclass(frozen=True, slots=True)
class StoredAnchors:
    """Figures that were measured elsewhere, line by line as they stand in a CSV file."""

    path: Path
    lines: tuple[dict[str, str], ...]

    def rows_for(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the clips of ``rows``, with the same metrics; `TelucodecError` for what is no number.

        A system that was also measured live is marked: ``opus (table) 8``.
        """
        clips = {Path(row.clip).stem: row for row in rows}
        live = {row.system for row in rows}
        try:
            return [
                _stored_row(line, clips[line["clip"]], live) for line in self.lines if line["clip"] in clips
            ]
        except ValueError as error:
            raise TelucodecError(f"{self.path}: {error}; correct the table") from error


def read_stored(path: Path, clips: Iterable[Path]) -> StoredAnchors:
    """Figures that were measured elsewhere, from a CSV file that knows some of ``clips``.

    Columns: ``codec``, ``clip`` (name without folder and suffix), ``kbps`` of the payload, and metrics by
    name. The system is ``codec`` with its last ``@`` made a blank; what follows it is the nominal rate.

    Raises:
        TelucodecError: the file is no such table, or it knows none of the clips.
    """
    lines = tuple(csv.DictReader(read_bytes(path).decode("utf-8-sig").splitlines()))
    if not lines or not {"codec", "clip", "kbps"} <= lines[0].keys():
        raise TelucodecError(f"{path} is not a table of anchors: expected the columns codec, clip, kbps")
    stems = sorted({clip.stem for clip in clips})
    if not {line["clip"] for line in lines} & {*stems}:
        raise TelucodecError(f"{path} names none of the clips to measure, such as {stems[0]}")
    return StoredAnchors(path, lines)


def _stored_row(line: dict[str, str], ours: Row, live: set[str]) -> Row:
    family, _, rate = line["codec"].rpartition("@")
    system = f"{family} {float(rate):g}" if family else line["codec"]
    if system in live:
        system = f"{family} (table) {float(rate):g}" if family else f"{system} (table)"
    payload_kbps = float(line["kbps"])
    named = {CSV_METRICS.get(name, name): value for name, value in line.items()}
    metrics = {name: float(named[name]) for name in (*ours.metrics, *ours.missing) if named.get(name)}
    unknown = [name for name in (*ours.metrics, *ours.missing) if name not in metrics]
    return Row(
        clip=ours.clip,
        folder=ours.folder,
        language=ours.language,
        seconds=ours.seconds,
        n_codebooks=0,
        kbps_wanted=float(rate) if family else payload_kbps,
        kbps=math.nan,
        payload_kbps=payload_kbps,
        metrics=metrics,
        missing=dict.fromkeys(unknown, "the table of stored anchors does not give it"),
        encode_s=math.nan,
        decode_s=math.nan,
        system=system,
    )


def unmatched(rows: Iterable[Row], stored: Iterable[Row]) -> dict[str, int]:
    """How many of the clips of ``rows`` each stored system says nothing about, where it is any."""
    clips = {row.clip for row in rows}
    known: dict[str, set[str]] = {}
    for row in stored:
        known.setdefault(row.system, set()).add(row.clip)
    return {system: len(clips - found) for system, found in known.items() if clips - found}


def _run(program: str, *arguments: str) -> float:
    """Seconds that it took; `TelucodecError` with its last words if it fails."""
    start_s = time.perf_counter()
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise TelucodecError(f"{program} failed: {said}")
    return time.perf_counter() - start_s


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)  # a dot in the clip's name is not a suffix
