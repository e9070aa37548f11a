"""A corpus through real files: encode, write, read back, decode, measure.

Nothing is estimated. The rate of a row is counted from the bytes of the ``.codes`` file that lay on
the disk, and the estimate is the 16-bit audio file that ``decode`` wrote from it, compared with the
clip as the codec reads it (one channel, at the codec's rate).

Shapes: B batch, C audio channels, T samples.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from telucodec.audio import find_audio, read_audio
from telucodec.errors import TelucodecError
from telucodec.evaluate.metrics import measure
from telucodec.evaluate.report import Row
from telucodec.files import check_readable, check_writable
from telucodec.model.codec import Codec
from telucodec.pipeline import CODES_SUFFIX, EncodeOptions, Failure, check_options, decode_file, encode_file


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of the corpus; ``name`` is its path below the source it was found in."""

    path: Path
    name: Path

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
            found = [Clip(path, path.relative_to(source)) for path in find_audio(source)]
        else:
            check_readable(source)
            found = [Clip(source, Path(source.name))]
        for clip in found:
            clips.setdefault(clip.path.resolve(), clip)
    if not clips:
        raise TelucodecError("no audio to measure: name audio files or a folder that holds some")
    return list(clips.values())


def evaluate(
    codec: Codec,
    clips: Sequence[Clip],
    kbps: Sequence[float],
    *,
    keep: Path | None = None,
    overwrite: bool = False,
) -> Iterator[Row | Failure]:
    """One `Row` per clip and rate, clip by clip; a clip that cannot be used gives one `Failure`.

    What could only fail later is refused before any work. With ``keep`` the ``.codes`` files and what
    was decoded from them stay in that folder, below ``<rate>kbps/`` when there are several rates.

    Raises:
        TelucodecError: a rate the model does not have, or a file in ``keep`` that would be overwritten.
    """
    rates = list(dict.fromkeys(kbps))
    for rate in rates:
        check_options(codec, EncodeOptions(kbps=rate))
    if keep is not None:
        _check_targets(clips, rates, keep, overwrite=overwrite)
    return _rows(codec, clips, rates, keep)


def _rows(
    codec: Codec, clips: Sequence[Clip], rates: Sequence[float], keep: Path | None
) -> Iterator[Row | Failure]:
    _warm_up(codec)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telucodec-")))
        for clip in clips:
            try:
                reference, _ = read_audio(clip.path, codec.config.sample_rate_hz)
                rows = [
                    _measured(codec, clip, reference, rate, _target(clip, rate, rates, folder))
                    for rate in rates
                ]
            except TelucodecError as error:
                yield Failure(clip.path, error)
            else:
                yield from rows


def _measured(codec: Codec, clip: Clip, reference: torch.Tensor, rate: float, target: Path) -> Row:
    """Through the files ``target.codes`` and ``target.wav``; ``reference`` is ``[1, T]``."""
    stream, audio = _with_suffix(target, CODES_SUFFIX), _with_suffix(target, ".wav")
    encoded = encode_file(codec, clip.path, stream, options=EncodeOptions(kbps=rate), overwrite=True)
    decoded = decode_file(codec, stream, audio, overwrite=True)
    rate_hz = codec.config.sample_rate_hz
    estimate, _ = read_audio(audio, rate_hz)
    measured = measure(reference[0].numpy(), estimate[0].numpy(), rate_hz)
    return Row(
        clip=clip.name.as_posix(),
        folder=clip.folder,
        seconds=encoded.seconds,
        n_codebooks=encoded.header.n_codebooks,
        kbps_wanted=rate,
        kbps=_or_nan(encoded.file_kbps),
        payload_kbps=_or_nan(encoded.payload_kbps),
        metrics=measured.values,
        missing=measured.missing,
        encode_s=_or_nan(encoded.real_time_factor),
        decode_s=_or_nan(decoded.real_time_factor),
    )


def _check_targets(clips: Sequence[Clip], rates: Sequence[float], keep: Path, *, overwrite: bool) -> None:
    recordings = {clip.path.resolve() for clip in clips}
    taken: dict[Path, Clip] = {}
    for clip in clips:
        for rate in rates:
            target = _target(clip, rate, rates, keep)
            if target in taken:
                raise TelucodecError(
                    f"{taken[target].path} and {clip.path} would both be kept as {target}{CODES_SUFFIX}; "
                    "rename one of them"
                )
            taken[target] = clip
            for suffix in (CODES_SUFFIX, ".wav"):
                path = _with_suffix(target, suffix)
                if path.resolve() in recordings:
                    raise TelucodecError(
                        f"{path} is a recording to measure; keep the results in another folder"
                    )
                check_writable(path, overwrite=overwrite)


def _target(clip: Clip, rate: float, rates: Sequence[float], folder: Path) -> Path:
    """Where the files of a clip at a rate go, without suffix."""
    return (folder / f"{rate:g}kbps" if len(rates) > 1 else folder) / clip.name.with_suffix("")


def _with_suffix(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)  # a dot in the clip's name is not a suffix


def _warm_up(codec: Codec) -> None:
    """One second of silence, so that the first row does not pay for what torch sets up once."""
    device = next(codec.parameters()).device
    wav = torch.zeros(1, 1, codec.config.sample_rate_hz, device=device)  # [B, C, T]
    codec.decode(codec.encode(wav), n_samples=wav.shape[-1])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
