"""Frame arithmetic: every length from nothing to three hops and one sample, in integers."""

import pytest
import torch

from telucodec.frames import frame_count, pad_to_frames, trim_delay

LENGTHS = range(3 * 8 + 2)
DELAYS = pytest.mark.parametrize("delay", [0, 8, 12], ids=["no-delay", "one-hop", "hop-and-a-half"])


@DELAYS
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_frames_are_enough_for_the_last_sample_and_not_one_more(n_samples, delay):
    frames = frame_count(n_samples, 8, delay)
    assert frames * 8 >= n_samples + delay or n_samples == 0
    assert (frames - 1) * 8 < n_samples + delay


def test_no_samples_need_no_frames():
    assert frame_count(0, 320, 320) == 0


@pytest.mark.parametrize(("n_samples", "frames"), [(1, 2), (319, 2), (320, 2), (321, 3), (16_000, 51)])
def test_counts_of_the_default_geometry_are_known(n_samples, frames):
    assert frame_count(n_samples, 320, 320) == frames


@DELAYS
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_padding_keeps_the_signal_and_adds_only_zeros(n_samples, delay):
    wav = torch.arange(1.0, n_samples + 1)[None, None]
    padded = pad_to_frames(wav, 8, delay)
    assert padded.shape == (1, 1, 8 * frame_count(n_samples, 8, delay))
    assert torch.equal(padded[..., :n_samples], wav)
    assert not padded[..., n_samples:].any()


@DELAYS
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_trimming_undoes_padding_and_delay(n_samples, delay):
    wav = torch.arange(1.0, n_samples + 1)[None, None]
    padded = pad_to_frames(wav, 8, delay)
    n_padded = padded.shape[-1]
    late = torch.nn.functional.pad(padded, (delay, 0))[..., :n_padded]  # what a lossless codec would give
    assert torch.equal(trim_delay(late, n_samples, delay), wav)


def test_too_few_decoded_samples_are_refused():
    with pytest.raises(ValueError, match="16 decoded samples cannot give 9 after a delay of 8"):
        trim_delay(torch.zeros(1, 1, 16), 9, 8)
