"""A folder of audio as an endless, deterministic, resumable source of crops.

The folder is read once into one array of int16 at the codec's rate, cached by content. A batch
is a pure function of ``(seed, step)``, so the position in the data is the step number: nothing
else has to be saved to resume bit for bit.

Shapes: B batch, T samples.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from telucodec.audio import find_audio, read_audio
from telucodec.config import DataConfig
from telucodec.errors import DataError, TelucodecError
from telucodec.files import replacing
from telucodec.train.augment import augment, change_speed, draw_speed

log = logging.getLogger(__name__)

_CACHE_VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """Clips of one folder, end to end in one array."""

    rate_hz: int
    names: tuple[str, ...]  # relative paths
    starts: NDArray[np.int64]  # [n + 1] where each clip begins; the last is the total
    rms_dbfs: NDArray[np.float64]  # [n]
    samples: NDArray[np.int16]  # [total]
    skipped: tuple[str, ...] = ()  # "name: reason" of each file left out

    @property
    def minutes(self) -> float:
        return float(self.starts[-1] / self.rate_hz / 60)

    def clip(self, index: int) -> Tensor:
        """Float32 ``[T]`` of one clip."""
        return self.span(int(self.starts[index]), int(self.starts[index + 1]))

    def span(self, start: int, stop: int) -> Tensor:
        """Float32 of samples ``start`` to ``stop``."""
        return torch.from_numpy(self.samples[start:stop].astype(np.float32) / 32_768)

    def subset(self, indices: list[int]) -> "Corpus":
        """The named clips only."""
        lengths = [int(self.starts[i + 1] - self.starts[i]) for i in indices]
        parts = [self.samples[self.starts[i] : self.starts[i + 1]] for i in indices]
        return Corpus(
            rate_hz=self.rate_hz,
            names=tuple(self.names[i] for i in indices),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            rms_dbfs=self.rms_dbfs[indices],
            samples=np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16),
            skipped=self.skipped,
        )


def load_corpus(folder: Path, rate_hz: int, config: DataConfig, *, cache_dir: Path | None = None) -> Corpus:
    """Read every audio file below ``folder``, or the cache of an earlier reading of the same files.

    Files that cannot be read, are silent or are too short are named in the log and left out.

    Raises:
        DataError: nothing usable is left.
    """
    files = find_audio(folder)
    cache_dir = cache_dir or default_cache_dir()
    key = _fingerprint(folder, files, rate_hz, config)
    path = cache_dir / f"{key}.npz"
    corpus = _read_cache(path, rate_hz) if path.is_file() else None
    if corpus is None:
        corpus = _read_files(folder, files, rate_hz, config)
        if corpus.names:
            _write_cache(path, corpus)
    for line in corpus.skipped:
        log.warning("skipped %s", line)
    if not corpus.names:
        reasons = f"; all {len(files)} files were skipped, the first: {corpus.skipped[0]}" if files else ""
        raise DataError(
            f"{folder} holds no audio to train on{reasons}; expected .wav, .flac, .ogg or .mp3 files"
        )
    return corpus


def default_cache_dir() -> Path:
    """``$TELUCODEC_CACHE``, else ``telucodec`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TELUCODEC_CACHE") or Path(base) / "telucodec")


def split_speakers(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Training and validation clips that share no speaker, as far as names tell.

    A group is a top folder and what stands before the first ``-`` or ``_`` of the file name, the usual
    place of a speaker. Groups are taken in an order given by a hash of their name, as long as they
    fit into ``share`` of the samples. If no group fits (one speaker), single clips are taken.
    """
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(corpus.names):
        path = Path(name)
        top = path.parts[0] if len(path.parts) > 1 else ""
        groups.setdefault(f"{top}/{path.stem.replace('-', '_').split('_')[0]}", []).append(index)
    chosen = _fill(corpus, groups, share)
    if not chosen:
        chosen = _fill(corpus, {name: [index] for index, name in enumerate(corpus.names)}, share)
    rest = [index for index in range(len(corpus.names)) if index not in chosen]
    if not rest or not chosen:
        raise DataError(
            f"{len(corpus.names)} clips cannot be split with data.validation_share={share}; "
            "add clips, raise the share, or name a folder in data.val_dir"
        )
    return corpus.subset(rest), corpus.subset(sorted(chosen))


def batch_at(
    corpus: Corpus, step: int, batch_size: int, config: DataConfig, *, seed: int, rank: int = 0
) -> Tensor:
    """Crops ``[B, 1, T]`` of step ``step``, a pure function of its arguments; long clips come more often."""
    generator = np.random.default_rng((seed, step, rank))
    n_samples = round(config.crop_s * corpus.rate_hz)
    return torch.stack([_crop(corpus, n_samples, config, generator) for _ in range(batch_size)])[:, None]


@dataclass(frozen=True)
class Batches(Dataset[Tensor]):
    """`batch_at` as a dataset of steps, so that worker processes can prepare batches ahead."""

    corpus: Corpus
    batch_size: int
    config: DataConfig
    seed: int
    rank: int = 0

    def __getitem__(self, step: int) -> Tensor:
        return batch_at(self.corpus, step, self.batch_size, self.config, seed=self.seed, rank=self.rank)


def batches_from(dataset: Batches, start: int, n_steps: int, *, n_workers: int) -> Iterator[Tensor]:
    """Batches ``[B, 1, T]`` of steps ``start`` to ``n_steps - 1``, the same for any number of workers."""
    steps = range(start, n_steps)
    if not n_workers:
        return map(dataset.__getitem__, steps)
    return iter(DataLoader(dataset, batch_size=None, sampler=steps, num_workers=n_workers, prefetch_factor=4))


def _crop(corpus: Corpus, n_samples: int, config: DataConfig, generator: np.random.Generator) -> Tensor:
    index = int(np.searchsorted(corpus.starts, generator.integers(corpus.starts[-1]), side="right")) - 1
    first, last = int(corpus.starts[index]), int(corpus.starts[index + 1])
    speed = draw_speed(config, generator)
    n_read = -(-n_samples * speed[0] // speed[1])
    start = first + int(generator.integers(max(1, last - first - n_read + 1)))
    wav = corpus.span(start, min(last, start + n_read))
    wav = change_speed(wav, speed, n_samples)
    wav = augment(wav, corpus.rate_hz, float(corpus.rms_dbfs[index]), config, generator)
    return torch.nn.functional.pad(wav, (0, n_samples - len(wav)))


def _fill(corpus: Corpus, groups: dict[str, list[int]], share: float) -> set[int]:
    lengths = np.diff(corpus.starts)
    room = share * corpus.starts[-1]
    chosen: set[int] = set()
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        size = lengths[groups[name]].sum()
        if size <= room:
            room -= size
            chosen.update(groups[name])
    return chosen


def _read_files(folder: Path, files: list[Path], rate_hz: int, config: DataConfig) -> Corpus:
    names: list[str] = []
    parts: list[NDArray[np.int16]] = []
    rms_dbfs: list[float] = []
    skipped: list[str] = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            wav = read_audio(path, rate_hz)[0][0]
        except TelucodecError as error:
            skipped.append(f"{name}: {error}")
            continue
        level = 10 * np.log10(float(wav.square().mean()) + 1e-20) if len(wav) else -200.0
        if len(wav) < config.min_clip_s * rate_hz:
            skipped.append(
                f"{name}: {len(wav) / rate_hz:.2f} s, shorter than data.min_clip_s={config.min_clip_s}"
            )
        elif level < config.silence_dbfs:
            skipped.append(
                f"{name}: silent, {level:.0f} dBFS RMS is below data.silence_dbfs={config.silence_dbfs}"
            )
        else:
            names.append(name)
            rms_dbfs.append(level)
            parts.append((wav * 32_768).round().clamp(-32_768, 32_767).short().numpy())
    lengths = [len(part) for part in parts]
    return Corpus(
        rate_hz=rate_hz,
        names=tuple(names),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rms_dbfs=np.array(rms_dbfs),
        samples=np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16),
        skipped=tuple(skipped),
    )


def _fingerprint(folder: Path, files: list[Path], rate_hz: int, config: DataConfig) -> str:
    lines = [f"{_CACHE_VERSION} {rate_hz} {config.min_clip_s} {config.silence_dbfs} {folder.resolve()}"]
    for path in files:
        stat = path.stat()
        lines.append(f"{path.relative_to(folder).as_posix()} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _write_cache(path: Path, corpus: Corpus) -> None:
    notes = json.dumps({"names": corpus.names, "skipped": corpus.skipped})
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, starts=corpus.starts, rms_dbfs=corpus.rms_dbfs, samples=corpus.samples, notes=notes)


def _read_cache(path: Path, rate_hz: int) -> Corpus | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            notes = json.loads(str(stored["notes"]))
            return Corpus(
                rate_hz=rate_hz,
                names=tuple(notes["names"]),
                starts=stored["starts"],
                rms_dbfs=stored["rms_dbfs"],
                samples=stored["samples"],
                skipped=tuple(notes["skipped"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("cache %s is damaged (%s); reading the files again", path, error)
        return None
