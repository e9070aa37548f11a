"""Files through the whole codec: audio to ``.codes`` and back, one file or a tree of them.

The only room that walks the whole path. Work on a tree is planned first (`encode_jobs`, `decode_jobs`:
what is written where, and nothing may be overwritten unasked), then done job by job, so that a caller
can refuse early and show progress. A file that cannot be used becomes a `Failure` in the results; the
other files of the tree are still done.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from telucodec.allocation import plan_stages
from telucodec.audio import (
    AUDIO_SUFFIXES,
    Samples,
    converted,
    find_audio,
    reading,
    to_pcm,
    writable_format,
    writing,
)
from telucodec.bitstream.container import Header, Summary
from telucodec.coders import RATES, measured_rates
from telucodec.decoding import FILE_FRAMES
from telucodec.errors import BitstreamError, ConfigError, ModelError, TelucodecError
from telucodec.files import check_readable, check_writable, read_blocks, replacing
from telucodec.model.codec import Codec, load_codec
from telucodec.model.lattice import LatticeQuantizer
from telucodec.pipes import BLOCK_BYTES, PcmFormat, read_pcm, read_some, read_wav_start, wav_start
from telucodec.streaming import StreamDecoder, StreamEncoder

CODES_SUFFIX = ".codes"
DEFAULT_MODEL = "speech-16k"
PRETRAINED = Path(__file__).parent / "pretrained"
CODED_BYTES = 1 << 13  # of a stream decoded at a time: few, because a minute may take no more


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How to write streams; the defaults are those of the command line."""

    n_codebooks: int | None = None  # all if None; at a rate, at most so many
    kbps: float | None = None  # payload rate to keep to; a file as a whole, or every ten minutes of it
    frames_per_packet: int = FILE_FRAMES
    entropy: str | None = None  # the best that the weights have tables for if None
    has_seek_table: bool = False


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file encoded or decoded; rates are counted from the bytes of the ``.codes`` file."""

    source: Path
    target: Path
    summary: Summary
    work_s: float  # reading, network, packing and writing
    changes: str = ""  # what was done to the audio to make it fit the codec

    @property
    def header(self) -> Header:
        """What the stream says about itself."""
        return self.summary.header

    @property
    def seconds(self) -> float:
        """Duration of the decoded signal."""
        return self.summary.seconds

    @property
    def file_kbps(self) -> float | None:
        """Rate of the ``.codes`` file, every byte counted; None for an empty signal."""
        return self.summary.file_kbps

    @property
    def payload_kbps(self) -> float | None:
        """Rate of the codes alone; None for an empty signal."""
        return self.summary.payload_kbps

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of audio; None for an empty signal."""
        return self.work_s / self.seconds if self.summary.n_samples else None

    def describe(self) -> dict[str, Any]:
        """Everything, in plain JSON types."""
        timing = {"work_s": self.work_s, "real_time_factor": self.real_time_factor}
        names = {"source": str(self.source), "target": str(self.target)}
        return names | self.summary.describe() | timing | {"changes": self.changes}


@dataclass(frozen=True)
class Failure:
    """A file that could not be used, and why."""

    source: Path
    error: TelucodecError


@dataclass(frozen=True)
class Job:
    """One file to read and the file to write."""

    source: Path
    target: Path


def find_model(name_or_folder: str) -> Path:
    """The folder of the weights: one that exists on the disk, or the name of shipped ones.

    Raises:
        ModelError: neither.
    """
    if name_or_folder and Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    known = sorted(path.name for path in PRETRAINED.glob("*/"))
    if name_or_folder in known:
        return PRETRAINED / name_or_folder
    raise ModelError(
        f"no model {name_or_folder!r}: expected a folder written by `telucodec train` "
        f"or a shipped name ({', '.join(known) or 'none is installed'})"
    )


def choose_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``; a missing ``cuda`` is a `ConfigError`."""
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    if name == "cuda" and not has_cuda:
        raise ConfigError("device is cuda, but torch finds none here; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; expected auto, cpu or cuda")
    return name


def open_codec(
    name_or_folder: str = DEFAULT_MODEL, *, device: str = "auto", search_width: int | None = None
) -> Codec:
    """Load weights by shipped name or folder, ready to encode and decode on ``device``.

    Args:
        search_width: paths that the search for codes keeps open, in place of the model's own number.

    Raises:
        ModelError: no such weights, or damaged ones.
        ConfigError: no such device, a width below 1, or a model whose codes are not searched for.
    """
    codec = load_codec(find_model(name_or_folder), device=choose_device(device))
    _weigh_search(codec)
    if search_width is not None:
        if isinstance(codec.quantizer, LatticeQuantizer):
            raise ConfigError(
                f"the codes of {name_or_folder} are known without a search; leave its width out"
            )
        if search_width < 1:
            raise ConfigError(f"the search width is {search_width}; expected 1 path or more")
        codec.quantizer.search_width = search_width
    return codec


def _weigh_search(codec: Codec) -> None:
    """Let the search for codes weigh errors as those that prices of bits were measured with."""
    assert codec.folder is not None
    weights = measured_rates(codec.folder).search_weights if (codec.folder / RATES).is_file() else []
    if not weights:
        return
    if len(weights) != codec.config.latent_dim or isinstance(codec.quantizer, LatticeQuantizer):
        raise ModelError(
            f"{codec.folder / RATES} has search weights of {len(weights)} latents; expected "
            f"{codec.config.latent_dim}, or none for a lattice: fit the tables again: telucodec fit-entropy"
        )
    codec.quantizer.weigh_search(weights)


def check_options(codec: Codec, options: EncodeOptions) -> None:
    """Raises `ConfigError` for a rate or number of codebooks that the model does not have."""
    plan_stages(
        codec.config,
        codec.folder,
        kbps=options.kbps,
        n_codebooks=options.n_codebooks,
        entropy=options.entropy,
    )


def encode_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    n_codebooks: int | None = None,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
) -> FileReport:
    """Encode an audio file with the first ``n_codebooks`` stages (all if None) into a ``.codes`` file.

    Block by block: a long file takes no more memory than a short one.

    Raises:
        TelucodecError: ``source`` is not usable audio, or ``target`` exists or cannot be written.
    """
    start_s = time.perf_counter()
    options = options or EncodeOptions()
    n_codebooks = options.n_codebooks if n_codebooks is None else n_codebooks
    check_writable(target, overwrite=overwrite)
    rate_hz = codec.config.sample_rate_hz
    encoder = _encoder(codec, replace(options, n_codebooks=n_codebooks), is_held=True)
    with (
        reading(source, rate_hz) as (info, blocks),
        replacing(target) as temporary,
        temporary.open("wb") as file,
    ):
        for block in blocks:
            file.write(encoder.push(block))
        file.write(encoder.flush())
        file.seek(0)
        file.write(encoder.finished_header.to_bytes())  # the length is known now
    return FileReport(
        source=source,
        target=target,
        summary=encoder.summary(),
        work_s=time.perf_counter() - start_s,
        changes=info.changes(rate_hz),
    )


def decode_file(
    codec: Codec, source: Path, target: Path, *, overwrite: bool = False, is_strict: bool = False
) -> FileReport:
    """Decode a ``.codes`` file into 16-bit audio: exactly the samples the encoder saw, at the codec's rate.

    Damaged and missing packets are bridged and told in the report's summary. Block by block: a long file
    takes no more memory than a short one.

    Raises:
        BitstreamError: ``source`` has no intact header or not one packet, or is damaged and ``is_strict``.
        ModelError: the stream was made with other weights than those of ``codec``.
        TelucodecError: ``target`` exists or cannot be written.
    """
    start_s = time.perf_counter()
    check_writable(target, overwrite=overwrite)
    decoder = StreamDecoder(codec)
    try:
        with writing(target, codec.config.sample_rate_hz) as write:
            for piece in read_blocks(source, CODED_BYTES):
                write(decoder.push(piece))
            write(decoder.flush())
            if is_strict and decoder.damages:
                raise BitstreamError(f"damaged stream: {decoder.damages[0]}; leave out --strict to bridge it")
    except (BitstreamError, ModelError) as error:
        raise type(error)(f"{source}: {error}") from error
    return FileReport(
        source=source, target=target, summary=decoder.summary(), work_s=time.perf_counter() - start_s
    )


def encode_pipe(
    codec: Codec, source: BinaryIO, target: BinaryIO, *, raw: PcmFormat | None, options: EncodeOptions
) -> Summary:
    """Encode a WAV file (or PCM in the format ``raw``) as it arrives; a packet goes out when it is complete.

    Raises:
        AudioError: what arrives is not usable audio.
    """
    form, n_bytes = (raw, None) if raw is not None else read_wav_start(source)
    encoder = _encoder(codec, options, is_held=False)
    blocks = read_pcm(source, form, n_bytes)
    for block in converted(blocks, form.rate_hz, codec.config.sample_rate_hz):
        _send(target, encoder.push(block))
    _send(target, encoder.flush())
    return encoder.summary()


def decode_pipe(
    codec: Codec, source: BinaryIO, target: BinaryIO, *, is_raw: bool, is_strict: bool = False
) -> Summary:
    """Decode a stream as it arrives to a WAV file (or bare 16-bit PCM); samples go out as they are made.

    Raises:
        BitstreamError: there is no intact header or not one packet, or there is damage and ``is_strict``.
        ModelError: the stream was made with other weights.
    """
    decoder = StreamDecoder(codec)
    is_begun = is_raw

    def send(samples: Samples) -> None:
        nonlocal is_begun
        if decoder.header is not None and not is_begun:
            _send(target, wav_start(decoder.header.sample_rate_hz, decoder.header.n_samples))
            is_begun = True
        _send(target, to_pcm(samples, "cannot write standard output").astype("<i2").tobytes())
        if is_strict and decoder.damages:
            raise BitstreamError(f"damaged stream: {decoder.damages[0]}; leave out --strict to bridge it")

    while data := read_some(source, BLOCK_BYTES):
        send(decoder.push(data))
    send(decoder.flush())
    return decoder.summary()


def _encoder(codec: Codec, options: EncodeOptions, *, is_held: bool) -> StreamEncoder:
    return StreamEncoder(
        codec,
        is_held=is_held,
        n_codebooks=options.n_codebooks,
        kbps=options.kbps,
        frames_per_packet=options.frames_per_packet,
        entropy=options.entropy,
        has_seek_table=options.has_seek_table,
    )


def _send(target: BinaryIO, data: bytes) -> None:
    if data:
        target.write(data)
        target.flush()


def encode_jobs(source: Path, target: Path, *, overwrite: bool = False) -> list[Job]:
    """What ``telucodec encode source target`` writes where.

    A file goes to the file ``target``, or into it where it is a folder; a folder goes to a folder, and
    the tree below it is kept.

    Raises:
        TelucodecError: nothing to encode, two sources for one target, a target without the suffix
            ``.codes``, or one that exists and no ``overwrite``.
    """
    if not source.is_dir():
        check_readable(source)
        target = _into(target, source, CODES_SUFFIX)
        if target.suffix.lower() != CODES_SUFFIX:
            raise BitstreamError(
                f"cannot write {target}: its suffix is {target.suffix!r}; expected {CODES_SUFFIX}"
            )
        return _checked([Job(source, target)], overwrite)
    sources = find_audio(source)
    if not sources:
        raise TelucodecError(
            f"{source} holds no audio; expected files in {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return _checked(_tree(sources, source, target, CODES_SUFFIX), overwrite)


def decode_jobs(source: Path, target: Path, *, overwrite: bool = False) -> list[Job]:
    """What ``telucodec decode source target`` writes where; as `encode_jobs`, from ``.codes`` to ``.wav``."""
    if not source.is_dir():
        check_readable(source)
        target = _into(target, source, ".wav")
        writable_format(target)
        return _checked([Job(source, target)], overwrite)
    sources = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() == CODES_SUFFIX and not path.name.startswith(".") and path.is_file()
    )
    if not sources:
        raise TelucodecError(
            f"{source} holds no {CODES_SUFFIX} files; name a folder written by `telucodec encode`"
        )
    return _checked(_tree(sources, source, target, ".wav"), overwrite)


def encode_tree(
    codec: Codec,
    jobs: Iterable[Job],
    *,
    n_codebooks: int | None = None,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
) -> Iterator[FileReport | Failure]:
    """Encode job by job; a source that cannot be used gives a `Failure` and the rest goes on."""

    def work(job: Job) -> FileReport:
        return encode_file(
            codec, job.source, job.target, n_codebooks=n_codebooks, options=options, overwrite=overwrite
        )

    return _each(jobs, work)


def decode_tree(
    codec: Codec, jobs: Iterable[Job], *, overwrite: bool = False, is_strict: bool = False
) -> Iterator[FileReport | Failure]:
    """Decode job by job; a stream that cannot be used gives a `Failure` and the rest goes on."""

    def work(job: Job) -> FileReport:
        return decode_file(codec, job.source, job.target, overwrite=overwrite, is_strict=is_strict)

    return _each(jobs, work)


def _each(jobs: Iterable[Job], work: Callable[[Job], FileReport]) -> Iterator[FileReport | Failure]:
    for job in jobs:
        try:
            yield work(job)
        except TelucodecError as error:
            yield Failure(job.source, error)


def _into(target: Path, source: Path, suffix: str) -> Path:
    """``target``, or the file for ``source`` inside it where it is a folder."""
    return target / source.with_suffix(suffix).name if target.is_dir() else target


def _tree(sources: Iterable[Path], root: Path, target: Path, suffix: str) -> list[Job]:
    if target.exists() and not target.is_dir():
        raise TelucodecError(f"{root} is a folder, but {target} is a file; name a folder to write to")
    return [Job(path, target / path.relative_to(root).with_suffix(suffix)) for path in sources]


def _checked(jobs: list[Job], overwrite: bool) -> list[Job]:
    """Refuse before any work what could only fail or destroy something later."""
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise TelucodecError(
                f"{taken[job.target]} and {job.source} would both become {job.target}; rename one of them"
            )
        taken[job.target] = job.source
        check_writable(job.target, overwrite=overwrite)
    return jobs
