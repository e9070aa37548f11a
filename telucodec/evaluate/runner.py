"""A corpus through real files: encode, write, read back, decode, measure.

Nothing is estimated. The rate of a row is counted from the bytes of the file that lay on the disk, and the
estimate is the 16-bit audio file that ``decode`` wrote from it, compared with the clip as the codec reads it
(one channel, at the codec's rate). Other codecs go through the same metrics on the same clip; their delay
is found and taken back first, ours must have none.

Shapes: B batch, C audio channels, T samples.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from telucodec.audio import find_audio, read_audio
from telucodec.errors import TelucodecError
from telucodec.evaluate.anchors import Anchor, Coded
from telucodec.evaluate.jobs import in_order
from telucodec.evaluate.languages import language_of
from telucodec.evaluate.metrics import FAST, Measured, measure, measure_aligned
from telucodec.evaluate.report import OURS, Row
from telucodec.evaluate.resume import RowsFile
from telucodec.evaluate.signals import Exact
from telucodec.files import check_readable, check_writable
from telucodec.model.codec import Codec
from telucodec.pipeline import (
    CODES_SUFFIX,
    EncodeOptions,
    Failure,
    check_options,
    decode_file,
    encode_file,
    open_codec,
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of the corpus; ``name`` is its path below the source it was found in."""

    path: Path
    name: Path
    language: str = ""

    @property
    def folder(self) -> str:
        """What summaries group by: the folder below the source, or the name of the folder it lies in."""
        below = self.name.parent.as_posix()
        return self.path.absolute().parent.name if below == "." else below


def find_clips(sources: Iterable[Path]) -> list[Clip]:
    """Files as they are, folders searched recursively; in the order given, each file once.

    Raises:
        TelucodecError: a source does not exist, or there is no audio in all of them.
    """
    clips: dict[Path, Clip] = {}
    for source in sources:
        if source.is_dir():
            found = [(path, path.relative_to(source)) for path in find_audio(source)]
        else:
            check_readable(source)
            found = [(source, Path(source.name))]
        for path, name in found:
            clips.setdefault(path.resolve(), Clip(path, name, language_of(path, source)))
    if not clips:
        raise TelucodecError("no audio to measure: name audio files or a folder that holds some")
    return list(clips.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to every clip."""

    rates: tuple[float, ...]  # of ours, kbps
    anchors: tuple[Anchor, ...] = ()
    metrics: tuple[str, ...] = FAST
    keep: Path | None = None
    n_jobs: int = 1

    @property
    def systems(self) -> dict[str, float | Anchor]:
        """Ours, by rate, then the anchors, by the name that is shown."""
        ours: dict[str, float | Anchor] = {f"{OURS} {rate:g}": float(rate) for rate in self.rates}
        return ours | {anchor.name: anchor for anchor in self.anchors}

    def target(self, clip: Clip, system: str, folder: Path) -> Path:
        """Where the files of a clip through a system go, without suffix."""
        found = self.systems[system]
        if isinstance(found, float):
            below = f"{found:g}kbps" if len(self.rates) > 1 else ""
        else:
            below = system.replace(" ", "-")
        return folder / below / clip.name.with_suffix("")


@dataclass(frozen=True, slots=True)
class Task:
    """A clip, and the systems that are still to be measured on it."""

    clip: Clip
    systems: tuple[str, ...]


def evaluate(
    codec: Codec,
    clips: Sequence[Clip],
    plan: Plan,
    *,
    overwrite: bool = False,
    resume: Path | None = None,
) -> Iterator[Row | Failure]:
    """One `Row` per clip and system, clip by clip; a clip that cannot be used gives one `Failure`.

    What could only fail later is refused before any work. With ``plan.keep`` the coded files and what
    was decoded from them stay in that folder, below ``<rate>kbps/`` when there are several rates, below
    the name of the codec for others. With ``resume`` every row is written to that file as soon as it is
    there, and what the file holds already is not measured again. Rows, but for the times in them, and
    their order are the same whatever ``plan.n_jobs``.

    Raises:
        TelucodecError: a rate the model does not have, a file in ``plan.keep`` that would be overwritten,
            or a file to resume that belongs to other weights or metrics.
    """
    for rate in plan.rates:
        check_options(codec, EncodeOptions(kbps=rate))
    settings = {
        "model_id": codec.weights_id.hex(),
        "metrics": list(plan.metrics),
        "search_width": codec.quantizer.search_width,
    }
    stored = RowsFile(resume, settings) if resume is not None else None
    tasks = []
    for clip in clips:
        names = [name for name in plan.systems if stored is None or stored.find(clip.path, name) is None]
        tasks.append(Task(clip, tuple(names)))
    if plan.keep is not None:
        _check_targets(tasks, plan, plan.keep, overwrite=overwrite)
    return _rows(_setup(codec, plan), tasks, plan, stored)


def _setup(codec: Codec, plan: Plan) -> "Callable[[], Bench]":
    """How a worker begins; only what can be sent to another process if there are several."""
    if plan.n_jobs == 1:
        return lambda: Bench(codec, plan)
    if codec.folder is None:
        raise ValueError("several jobs load the weights from their folder, and this codec has none")
    device = next(codec.parameters()).device.type
    return partial(_open_bench, codec.folder, device, codec.quantizer.search_width, plan)


def _open_bench(folder: Path, device: str, search_width: int, plan: Plan) -> "Bench":
    codec = open_codec(str(folder), device=device)
    codec.quantizer.search_width = search_width
    return Bench(codec, plan)


def _rows(
    setup: "Callable[[], Bench]", tasks: Sequence[Task], plan: Plan, stored: RowsFile | None
) -> Iterator[Row | Failure]:
    fresh = in_order(setup, [task for task in tasks if task.systems], plan.n_jobs)
    for task in tasks:
        found: dict[str, Row] = {}
        if task.systems:
            result = next(fresh)
            if isinstance(result, Failure):
                yield result
                continue
            found = {row.system: row for row in result}
            if stored is not None:
                stored.add(task.clip.path, result)
        for name in plan.systems:
            row = found.get(name) or (stored.find(task.clip.path, name) if stored is not None else None)
            if row is not None:
                yield row


class Bench:
    """Measures clip after clip, one at a time, with weights that are loaded once."""

    def __init__(self, codec: Codec, plan: Plan) -> None:
        self._codec, self._plan = codec, plan
        self._rate_hz = codec.config.sample_rate_hz
        _warm_up(codec)

    def __call__(self, task: Task) -> list[Row] | Failure:
        """The rows of a clip, or why it cannot be used."""
        try:
            reference = self.read(task.clip)
            with ExitStack() as stack:
                folder = self._plan.keep or Path(
                    stack.enter_context(tempfile.TemporaryDirectory(prefix="telucodec-"))
                )
                return [self._row(task.clip, reference, system, folder) for system in task.systems]
        except TelucodecError as error:
            return Failure(task.clip.path, error)

    def read(self, clip: Clip) -> Exact:
        """The clip as the codec reads it, ``[T]``."""
        wav, _ = read_audio(clip.path, self._rate_hz)
        return wav[0].numpy().astype(np.float64)

    def code(self, clip: Clip, reference: Exact, system: str, folder: Path) -> Coded:
        """The clip through real files of a system; `TelucodecError` if it fails."""
        made = self._plan.systems[system]
        target = self._plan.target(clip, system, folder)
        if isinstance(made, float):
            return self._coded(clip, made, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        return made.run(reference, self._rate_hz, target)

    def _coded(self, clip: Clip, kbps: float, target: Path) -> Coded:
        stream, audio = _with_suffix(target, CODES_SUFFIX), _with_suffix(target, ".wav")
        encoded = encode_file(
            self._codec, clip.path, stream, options=EncodeOptions(kbps=kbps), overwrite=True
        )
        decoded = decode_file(self._codec, stream, audio, overwrite=True)
        wav, _ = read_audio(audio, self._rate_hz)
        return Coded(
            estimate=wav[0].numpy().astype(np.float64),
            file_bytes=encoded.summary.file_bytes,
            payload_bytes=encoded.summary.payload_bytes,
            encode_s=encoded.work_s,
            decode_s=decoded.work_s,
            n_codebooks=encoded.header.n_codebooks,
        )

    def _row(self, clip: Clip, reference: Exact, system: str, folder: Path) -> Row:
        made, names = self._plan.systems[system], self._plan.metrics
        is_ours = isinstance(made, float)
        seconds = reference.size / self._rate_hz
        amounts, n_codebooks = [math.nan] * 4, 0
        try:
            coded = self.code(clip, reference, system, folder)
            compare = measure if is_ours else measure_aligned
            measured = compare(reference, coded.estimate, self._rate_hz, names)
            amounts = [coded.file_bytes * 8e-3, coded.payload_bytes * 8e-3, coded.encode_s, coded.decode_s]
            n_codebooks = coded.n_codebooks
        except TelucodecError as error:
            if is_ours:
                raise
            measured = Measured({}, dict.fromkeys(names, f"{system}: {error}"))
        kbps, payload_kbps, encode_s, decode_s = (x / seconds if seconds else math.nan for x in amounts)
        return Row(
            clip=clip.name.as_posix(),
            folder=clip.folder,
            language=clip.language,
            seconds=seconds,
            n_codebooks=n_codebooks,
            kbps_wanted=made if isinstance(made, float) else made.kbps,
            kbps=kbps,
            payload_kbps=payload_kbps,
            metrics=measured.values,
            missing=measured.missing,
            encode_s=encode_s,
            decode_s=decode_s,
            n_jobs=self._plan.n_jobs,
            model_id=self._codec.weights_id.hex() if is_ours else "",
            system=system,
        )


def _check_targets(tasks: Sequence[Task], plan: Plan, keep: Path, *, overwrite: bool) -> None:
    recordings = {task.clip.path.resolve() for task in tasks}
    taken: dict[Path, Clip] = {}
    for task in tasks:
        for system in task.systems:
            target = plan.target(task.clip, system, keep)
            if target in taken:
                raise TelucodecError(
                    f"{taken[target].path} and {task.clip.path} would both be kept as "
                    f"{target}{CODES_SUFFIX}; rename one of them"
                )
            taken[target] = task.clip
            for suffix in (CODES_SUFFIX, ".wav"):
                path = _with_suffix(target, suffix)
                if path.resolve() in recordings:
                    raise TelucodecError(
                        f"{path} is a recording to measure; keep the results in another folder"
                    )
                check_writable(path, overwrite=overwrite)


def _with_suffix(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)  # a dot in the clip's name is not a suffix


def _warm_up(codec: Codec) -> None:
    """One second of silence, so that the first row does not pay for what torch sets up once."""
    device = next(codec.parameters()).device
    wav = torch.zeros(1, 1, codec.config.sample_rate_hz, device=device)  # [B, C, T]
    codec.decode(codec.encode(wav), n_samples=wav.shape[-1])
