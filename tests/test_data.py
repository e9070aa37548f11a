"""A folder becomes crops: what is left out is named, the cache is honest, and a step is its number."""

import dataclasses
import logging
import os

import numpy as np
import pytest
import soundfile
import torch

from telucodec.config import DataConfig
from telucodec.errors import DataError
from telucodec.train import data
from telucodec.train.data import Batches, Corpus, batch_at, batches_from, load_corpus, split_speakers

RATE_HZ = 8_000
PLAIN = DataConfig(
    crop_s=0.1,
    is_level_random=False,
    speed_chance=0.0,
    equalizer_chance=0.0,
    noise_chance=0.0,
    reverb_chance=0.0,
)


def write(path, seconds=1.0, level=0.1, rate_hz=RATE_HZ, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = level * np.random.default_rng(seed).uniform(-1, 1, round(seconds * rate_hz))
    soundfile.write(path, noise, rate_hz, subtype="PCM_16")
    return noise


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audio"


@pytest.fixture
def load(tmp_path, folder):
    return lambda config=PLAIN: load_corpus(folder, RATE_HZ, config, cache_dir=tmp_path / "cache")


def corpus_of(lengths, names=None, seed=0):
    """Clips in memory, each sample of clip ``i`` carrying the value ``i + 1``."""
    samples = np.concatenate([np.full(n, i + 1, dtype=np.int16) for i, n in enumerate(lengths)])
    return Corpus(
        rate_hz=RATE_HZ,
        names=tuple(names or (f"{i}.wav" for i in range(len(lengths)))),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rms_dbfs=np.full(len(lengths), -20.0),
        samples=samples,
    )


def test_clips_are_read_recursively_in_a_fixed_order_at_the_rate_asked_for(folder, load):
    written = write(folder / "b.wav")
    write(folder / "deep" / "er" / "c.flac", rate_hz=16_000)
    write(folder / "a.ogg".replace("ogg", "flac"), seconds=0.6)
    corpus = load()
    assert corpus.names == ("a.flac", "b.wav", "deep/er/c.flac")
    assert np.diff(corpus.starts).tolist() == [4800, 8000, 8000]
    assert corpus.minutes == pytest.approx(2.6 / 60)
    assert torch.allclose(corpus.clip(1), torch.from_numpy(written).float(), atol=1 / 32_768)
    assert corpus.rms_dbfs[1] == pytest.approx(10 * np.log10(np.mean(written**2)), abs=0.01)


def test_unusable_files_are_counted_named_with_a_reason_and_left_out(folder, load, caplog):
    write(folder / "good.wav")
    write(folder / "short.wav", seconds=0.4)
    write(folder / "silent.wav", level=1e-4)
    write(folder / "nothing.wav", seconds=0)
    (folder / "text.wav").write_text("not audio at all, whatever its name says")
    (folder / "empty.flac").write_bytes(b"")
    (folder / "notes.txt").write_text("not meant to be audio")
    with caplog.at_level(logging.WARNING):
        corpus = load()
    assert corpus.names == ("good.wav",)
    reasons = dict(line.split(": ", 1) for line in corpus.skipped)
    assert set(reasons) == {"short.wav", "silent.wav", "nothing.wav", "text.wav", "empty.flac"}
    assert "0.40 s, shorter than data.min_clip_s=0.5" in reasons["short.wav"]
    assert "below data.silence_dbfs=-60" in reasons["silent.wav"]
    for name in reasons:
        assert sum(name in record.getMessage() for record in caplog.records) == 1


def test_the_same_files_are_named_again_when_the_cache_answers(folder, load, caplog):
    write(folder / "good.wav")
    write(folder / "short.wav", seconds=0.1)
    first = load()
    with caplog.at_level(logging.WARNING):
        assert load().skipped == first.skipped
    assert "short.wav" in caplog.text


def test_what_was_left_out_is_still_known_after_the_split(folder, load):
    for speaker in "abcd":
        write(folder / f"{speaker}-1.wav")
    write(folder / "short.wav", seconds=0.1)
    training, _ = split_speakers(load(), 0.5)
    assert len(training.skipped) == 1


@pytest.mark.parametrize(
    ("n_bad", "message"),
    [(0, "holds no audio to train on"), (2, "all 2 files were skipped, the first: 0.wav")],
)
def test_a_folder_with_nothing_to_train_on_is_a_clear_error(folder, load, n_bad, message):
    folder.mkdir()
    for index in range(n_bad):
        (folder / f"{index}.wav").write_text("no audio")
    with pytest.raises(DataError, match=message) as caught:
        load()
    assert str(folder) in str(caught.value)


def test_a_second_load_reads_the_cache_and_no_file(folder, load, monkeypatch):
    write(folder / "a.wav")
    write(folder / "b.wav", seconds=0.7, seed=1)
    first = load()
    monkeypatch.setattr(data, "read_audio", lambda *_: pytest.fail("a file was read again"))
    second = load()
    assert second.names == first.names
    for name in ("samples", "starts", "rms_dbfs"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("change", ["content", "new-file", "gone", "threshold"])
def test_the_cache_is_refreshed_when_something_changed(folder, load, change):
    write(folder / "a.wav")
    write(folder / "b.wav", seconds=0.7)
    first, config = load(), PLAIN
    if change == "content":
        write(folder / "a.wav", seed=5)
        os.utime(folder / "a.wav", ns=(1, 1))  # as if at another time, whatever the clock's grain
    elif change == "new-file":
        write(folder / "c.wav")
    elif change == "gone":
        (folder / "b.wav").unlink()
    else:
        config = dataclasses.replace(PLAIN, min_clip_s=0.8)
    second = load(config)
    assert not np.array_equal(first.samples, second.samples)


def test_two_folders_with_files_of_equal_names_sizes_and_times_do_not_share_a_cache(tmp_path):
    found = []
    for name, seed in (("one", 1), ("two", 2)):
        write(tmp_path / name / "a.wav", seed=seed)
        os.utime(tmp_path / name / "a.wav", ns=(0, 0))  # as reproducible archives unpack
        found.append(load_corpus(tmp_path / name, RATE_HZ, PLAIN, cache_dir=tmp_path / "cache"))
    assert not np.array_equal(found[0].samples, found[1].samples)


@pytest.mark.parametrize("keep", [0, 30, -10], ids=["empty", "first-bytes", "cut"])
def test_a_damaged_cache_is_read_past(tmp_path, folder, load, keep):
    write(folder / "a.wav")
    first = load()
    (cache,) = (tmp_path / "cache").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:keep])
    assert np.array_equal(load().samples, first.samples)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path / "x"))
    assert data.default_cache_dir() == tmp_path / "x"
    monkeypatch.delenv("TELUCODEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "y"))
    assert data.default_cache_dir() == tmp_path / "y" / "telucodec"


def speakers(corpus):
    return {name.split("/")[-1].replace("-", "_").split("_")[0] for name in corpus.names}


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("{speaker}-{clip}.wav", id="dash"),
        pytest.param("s{speaker}_{clip}.wav", id="underscore"),
        pytest.param("{speaker}/{clip}/{speaker}-{clip}-0001.wav", id="librispeech-folders"),
    ],
)
def test_the_split_shares_no_speaker(pattern):
    names = [pattern.format(speaker=100 + s, clip=c) for s in range(10) for c in range(4)]
    training, held_out = split_speakers(corpus_of([100] * 40, names), 0.25)
    assert not speakers(training) & speakers(held_out)
    assert sorted(training.names + held_out.names) == sorted(names)
    assert 0 < held_out.starts[-1] <= 0.25 * 4000


def test_the_split_depends_on_the_names_alone_and_keeps_samples_with_their_names():
    names = [f"{s}-{c}.wav" for s in range(8) for c in range(3)]
    corpus = corpus_of(range(50, 74), names)
    first, second = (split_speakers(corpus, 0.3)[1] for _ in range(2))
    assert first.names == second.names
    for part in split_speakers(corpus, 0.3):
        for index, name in enumerate(part.names):
            assert set(part.samples[part.starts[index] : part.starts[index + 1]]) == {names.index(name) + 1}


def test_one_speaker_is_split_by_clip():
    training, held_out = split_speakers(corpus_of([100] * 20, [f"me-{i}.wav" for i in range(20)]), 0.1)
    assert (len(training.names), len(held_out.names)) == (18, 2)


@pytest.mark.parametrize(("n_clips", "share"), [(1, 0.5), (4, 0.0), (4, 0.01)])
def test_a_split_that_leaves_one_side_empty_is_refused_with_a_remedy(n_clips, share):
    with pytest.raises(
        DataError, match=f"{n_clips} clips cannot be split with .* add clips, raise the share"
    ):
        split_speakers(corpus_of([100] * n_clips), share)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    generator = np.random.default_rng(0)
    corpus = dataclasses.replace(
        corpus_of([4000, 8000]), samples=generator.integers(-5000, 5000, 12_000).astype(np.int16)
    )
    config = DataConfig(
        crop_s=0.1, speed_chance=0.5, equalizer_chance=0.5, noise_chance=0.5, reverb_chance=0.5
    )

    def batch(step=7, seed=3, rank=0):
        np.random.random()
        torch.rand(3)
        return batch_at(corpus, step, 4, config, seed=seed, rank=rank)

    assert batch().shape == (4, 1, 800)
    assert batch().dtype == torch.float32
    assert torch.equal(batch(), batch())
    for other in (batch(step=8), batch(seed=4), batch(rank=1)):
        assert not torch.equal(batch(), other)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_batches_from_a_step_on_are_those_of_their_numbers_whoever_prepares_them(n_workers):
    batches = Batches(corpus_of([4000, 8000]), 3, PLAIN, seed=5)
    found = list(batches_from(batches, 4, 9, n_workers=n_workers))
    assert len(found) == 5
    for step, batch in enumerate(found, start=4):
        assert torch.equal(batch, batch_at(batches.corpus, step, 3, PLAIN, seed=5))


def test_crops_lie_inside_one_clip_and_long_clips_come_more_often():
    corpus = corpus_of([1000, 3000, 6000])
    counts = np.zeros(3)
    for step in range(30):
        for crop in batch_at(corpus, step, 50, PLAIN, seed=0)[:, 0]:
            (value,) = (crop * 32_768).round().unique().tolist()
            counts[int(value) - 1] += 1
    assert (counts / counts.sum()).tolist() == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


def test_a_clip_shorter_than_the_crop_is_padded_with_silence():
    crop = batch_at(corpus_of([500]), 0, 1, PLAIN, seed=0)[0, 0]
    assert crop.shape == (800,)
    assert (crop[:500] > 0).all()
    assert not crop[500:].any()


def test_a_batch_with_every_augmentation_is_finite_and_below_full_scale():
    corpus = dataclasses.replace(
        corpus_of([4000, 300]),
        samples=np.random.default_rng(0).integers(-32_768, 32_767, 4300).astype(np.int16),
    )
    config = DataConfig(
        crop_s=0.1, speed_chance=1.0, equalizer_chance=1.0, noise_chance=1.0, reverb_chance=1.0
    )
    for step in range(5):
        batch = batch_at(corpus, step, 8, config, seed=0)
        assert torch.isfinite(batch).all()
        assert batch.abs().max() <= 0.981
