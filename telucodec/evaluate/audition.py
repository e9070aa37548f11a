"""Clips for the listening report: chosen from all folders, coded once more, kept as sound.

Coding again costs little beside measuring, and leaves the measuring with no sound to keep in memory.

Shapes: T samples, Q codebooks, L frames.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.container import read_header
from telucodec.coders import coder_for
from telucodec.errors import TelucodecError
from telucodec.evaluate.jobs import one_thread
from telucodec.evaluate.listening.clip import ReportClip
from telucodec.evaluate.loss import read_packets
from telucodec.evaluate.report import OURS
from telucodec.evaluate.runner import Bench, Clip, Plan
from telucodec.evaluate.signals import Exact
from telucodec.evaluate.waveform import aligned, delay_samples
from telucodec.model.codec import Codec
from telucodec.pipeline import CODES_SUFFIX


def choose_clips(clips: Iterable[Clip], n_clips: int) -> list[Clip]:
    """At most ``n_clips``, taken from the folders in turn, in the order they have there."""
    folders: dict[str, list[Clip]] = {}
    for clip in clips:
        folders.setdefault(clip.folder, []).append(clip)
    turns = zip_longest(*folders.values())
    return [clip for turn in turns for clip in turn if clip is not None][:n_clips]


def audition(codec: Codec, clips: Sequence[Clip], plan: Plan) -> Iterator[ReportClip]:
    """Each clip with what every system of ``plan`` made of it, and the codes of our highest rate.

    The delay of other codecs is taken back. A system that fails on a clip is left out there, as its rows
    say already; a clip without a sample is left out altogether.
    """
    with one_thread(), tempfile.TemporaryDirectory(prefix="telucodec-") as folder:
        bench = Bench(codec, plan)
        for clip in clips:
            reference = bench.read(clip)
            if reference.size:
                yield _auditioned(codec, bench, plan, clip, reference, Path(folder))


def _auditioned(
    codec: Codec, bench: Bench, plan: Plan, clip: Clip, reference: Exact, folder: Path
) -> ReportClip:
    rate_hz = codec.config.sample_rate_hz
    estimates = {}
    for system in plan.systems:
        try:
            estimate = bench.code(clip, reference, system, folder).estimate
        except TelucodecError:
            continue
        is_ours = isinstance(plan.systems[system], float)
        lag = 0 if is_ours else delay_samples(reference, estimate, rate_hz)
        estimates[system] = aligned(reference, estimate, lag or 0).astype(np.float32)
    highest = plan.target(clip, f"{OURS} {max(plan.rates):g}", folder)
    return ReportClip(
        clip=clip.name.as_posix(),
        folder=clip.folder,
        rate_hz=rate_hz,
        reference=reference.astype(np.float32),
        estimates=estimates,
        codes=codes_of(codec, highest.with_name(highest.name + CODES_SUFFIX)),
    )


def codes_of(codec: Codec, stream: Path) -> Codes:
    """The codes ``[Q, L]`` in an intact stream."""
    begin, packets = read_packets(stream)
    header = read_header(begin)
    coder = coder_for(header, codec.folder)
    return np.hstack(
        [
            coder.decode(packet.payload, header.n_codebooks, packet.n_frames)
            for packet in packets
            if packet.n_frames
        ]
    )
