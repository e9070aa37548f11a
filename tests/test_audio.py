"""Audio in and out: exact where it can be, refused by name where it cannot be used."""

import math

import numpy as np
import pytest
import soundfile
import torch

from telucodec import audio
from telucodec.audio import (
    Resampler,
    converted,
    find_audio,
    read_audio,
    resample,
    resampled_length,
    write_audio,
)
from telucodec.errors import AudioError, TelucodecError

RATE_HZ = 16_000


def noise(n_samples: int, n_channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n_samples, n_channels)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "WAV"])
def test_16_bit_samples_survive_writing_and_reading_exactly(tmp_path, suffix):
    every_value = torch.arange(-32_768, 32_768).unsqueeze(0) / 32_768
    write_audio(tmp_path / f"a.{suffix}", every_value, RATE_HZ)
    wav, info = read_audio(tmp_path / f"a.{suffix}", RATE_HZ)
    assert torch.equal(wav, every_value)
    assert wav.dtype == torch.float32
    assert (info.rate_hz, info.n_channels, info.n_samples) == (RATE_HZ, 1, 65_536)
    assert info.changes(RATE_HZ) == ""


def test_what_exceeds_full_scale_is_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "a.wav", torch.tensor([1.5, 1.0, -1.0, -1.5]), RATE_HZ)
    pcm, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert pcm.tolist() == [32_767, 32_767, -32_768, -32_768]


def test_a_signal_of_no_samples_is_legal(tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(1, 0), RATE_HZ)
    wav, info = read_audio(tmp_path / "a.wav", 8_000)
    assert wav.shape == (1, 0)
    assert info.n_samples == 0


def test_channels_are_averaged(tmp_path):
    stereo = np.array([[0.5, 0.25], [-0.5, 0.5]], dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, RATE_HZ, subtype="FLOAT")
    wav, info = read_audio(tmp_path / "a.wav", RATE_HZ)
    assert wav.tolist() == [[0.375, 0.0]]
    assert info.changes(RATE_HZ) == "2 channels mixed down to 1"


def test_a_file_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
    samples = noise(1_000, n_channels=3)
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 96)
    wav, _ = read_audio(tmp_path / "a.wav", RATE_HZ)
    np.testing.assert_allclose(wav[0], samples.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("native_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 47_999])
def test_a_tone_survives_resampling_within_a_tenth_of_a_decibel(tmp_path, native_hz):
    time_s = np.arange(native_hz) / native_hz
    tone = 0.5 * np.sin(2 * math.pi * 1_000 * time_s)
    soundfile.write(tmp_path / "a.wav", tone, native_hz, subtype="FLOAT")
    wav, info = read_audio(tmp_path / "a.wav", RATE_HZ)
    assert wav.shape == (1, RATE_HZ)
    middle = wav[0, 2_000:-2_000].double()
    expected = 0.5 * torch.sin(2 * math.pi * 1_000 * torch.arange(2_000, 14_000).double() / RATE_HZ)
    assert 10 * torch.log10(middle.square().mean() / expected.square().mean()).abs() < 0.1
    if native_hz != 47_999:  # a ratio that is kept exactly
        torch.testing.assert_close(middle, expected, rtol=0, atol=1e-3)
    assert info.changes(RATE_HZ) == f"resampled from {native_hz} Hz to 16000 Hz"


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(48_000, 16_000), (16_000, 44_100), (47_999, 16_000), (11_025, 16_000)]
)
@pytest.mark.parametrize("n_samples", [0, 1, 2, 319, 1_000])
def test_resampled_length_is_the_duration_rounded_up(from_hz, to_hz, n_samples):
    assert resample(torch.zeros(1, n_samples), from_hz, to_hz).shape == (
        1,
        math.ceil(n_samples * to_hz / from_hz),
    )


@pytest.mark.parametrize("native_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 47_999])
@pytest.mark.parametrize("n_samples", [0, 1, 319, 70_000])
def test_resampling_in_pieces_gives_the_same_samples_for_every_way_of_cutting(native_hz, n_samples):
    wav = noise(n_samples)[:, 0]
    whole = np.concatenate(list(converted([wav], native_hz, RATE_HZ)))
    assert len(whole) == resampled_length(n_samples, native_hz, RATE_HZ)
    for size in (9_973, 40_000):
        pieces = [wav[at : at + size] for at in range(0, n_samples, size)]
        np.testing.assert_array_equal(np.concatenate(list(converted(pieces, native_hz, RATE_HZ))), whole)
    at_once = resample(torch.from_numpy(wav)[None], native_hz, RATE_HZ)[0].numpy()
    np.testing.assert_allclose(whole, at_once, rtol=0, atol=2e-5)  # its filter is float32


def test_a_resampler_holds_no_more_than_a_block():
    resampler = Resampler(48_000, RATE_HZ)
    n_out = sum(len(resampler.push(np.zeros(4_800, dtype=np.float32))) for _ in range(50))
    assert 80_000 - n_out < 2 * 0.5 * RATE_HZ


def test_what_lies_above_the_new_band_is_removed():
    hiss = torch.sin(2 * math.pi * 11_000 * torch.arange(48_000).double() / 48_000).unsqueeze(0)
    assert resample(hiss, 48_000, RATE_HZ)[0, 500:-500].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty: 0 bytes", id="empty"),
        pytest.param(b"a page of text, not a sound", "is not audio that libsndfile reads", id="text"),
        pytest.param(b"RIFF\x24\0\0\0WAVE", "is not audio that libsndfile reads", id="a wav header cut off"),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.raw"])
def test_what_is_not_audio_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(tmp_path / name, RATE_HZ)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write_audio(path, torch.from_numpy(noise(50_000).T), RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AudioError, match="get a complete copy"):
        read_audio(path, RATE_HZ)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_numbers_are_refused_and_located(tmp_path, bad):
    samples = noise(100, n_channels=2)
    samples[40, 1] = bad
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite samples, the first at sample 40"):
        read_audio(tmp_path / "a.wav", RATE_HZ)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(TelucodecError, match="does not exist"):
        read_audio(tmp_path / "none.wav", RATE_HZ)
    with pytest.raises(TelucodecError, match="is a folder"):
        read_audio(tmp_path, RATE_HZ)


def test_an_absurd_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(10), 1)
    with pytest.raises(AudioError, match="its rate is 1 Hz; expected 1000 to 1000000"):
        read_audio(tmp_path / "a.wav", RATE_HZ)


@pytest.mark.parametrize(
    ("name", "wav", "message"),
    [
        pytest.param("a.mp3", torch.zeros(1, 8), "its suffix is '.mp3'; expected .wav or .flac", id="suffix"),
        pytest.param("a.wav", torch.tensor([[0.0, math.nan]]), "NaN or infinite", id="nan"),
        pytest.param("a.flac", torch.zeros(1, 0), "write a .wav file", id="empty flac"),
    ],
)
def test_a_refused_write_leaves_the_old_file_and_nothing_else(tmp_path, name, wav, message):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(AudioError, match=message):
        write_audio(tmp_path / name, wav, RATE_HZ)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fill_the_disk(file, samples):
        raise AssertionError  # what soundfile does when fewer samples were written than it was given

    monkeypatch.setattr(soundfile.SoundFile, "write", fill_the_disk)
    with pytest.raises(TelucodecError, match=r"a\.wav: No space left on device"):
        write_audio(tmp_path / "a.wav", torch.zeros(1, 8), RATE_HZ)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_searched_recursively_in_a_fixed_order(tmp_path):
    for name in ["b.wav", "a/z.FLAC", "a/b/c.ogg", "notes.txt", "a/.hidden.wav", ".b.wav.1-ab.tmp"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in find_audio(tmp_path)] == [
        "a/b/c.ogg",
        "a/z.FLAC",
        "b.wav",
    ]
    with pytest.raises(AudioError, match="is not a folder"):
        find_audio(tmp_path / "b.wav")
