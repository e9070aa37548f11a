"""What stands in for lost frames: as loud as what was heard at first, never louder, the room in the end."""

import math
from dataclasses import replace

import pytest
import torch

from telucodec.model.concealment import (
    FADE,
    FIRST,
    N_SLOW,
    ROOM_RISE,
    conceal,
    context_samples,
    continued,
    hear,
    heard_nothing,
)

RATE_HZ, HOP = 16_000, 320


@pytest.fixture
def heard():
    """Quiet frames of magnitude 0.1, then loud ones of 1."""
    torch.manual_seed(0)
    signs = torch.randn(1, 16, 40).sign()
    return hear(heard_nothing(torch.zeros(1, 0, 0), 16), signs * torch.tensor([0.1] * 20 + [1.0] * 20))


def test_the_first_lost_frames_are_the_last_that_arrived_softer_and_softer(heard):
    latents, after = conceal(replace(heard, room=torch.zeros_like(heard.room)), N_SLOW, seed=0)
    torch.testing.assert_close(latents, heard.last * FIRST * FADE ** torch.arange(N_SLOW))
    assert after.n_lost == N_SLOW


def test_a_gap_fades_to_the_level_of_the_quietest_frames(heard):
    latents, _ = conceal(heard, 100, seed=0)
    magnitudes = latents.abs().mean(dim=1)[0]
    assert magnitudes[8] < 0.8
    assert 0.02 < magnitudes[-50:].mean() < 0.1
    assert magnitudes.max() <= 1.1


def test_a_gap_told_frame_by_frame_fades_like_one_told_at_once(heard):
    whole, _ = conceal(heard, 9, seed=0)
    for index in range(9):
        frame, heard = conceal(heard, 1, seed=index)
        assert frame.norm() == pytest.approx(whole[..., index].norm().item(), rel=0.1)


def test_signs_can_be_given(heard):
    signs = -heard.last.sign()
    (given, _), (own, _) = conceal(heard, 1, 0, signs), conceal(heard, 1, 0)
    torch.testing.assert_close(given - own, -2 * FIRST * heard.last)


def test_nothing_heard_gives_silence():
    latents, _ = conceal(heard_nothing(torch.zeros(1, 0, 0), 16), 30, seed=0)
    assert not latents.any()


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 33]], ids=["whole", "frames", "uneven"])
def test_the_room_is_the_last_frame_quieter_than_the_risen_level(sizes):
    torch.manual_seed(1)
    latents = torch.randn(2, 16, 40) * torch.rand(2, 1, 40).add(0.2)
    room, level = torch.zeros(2, 16), torch.full((2,), torch.inf)
    for frame in latents.abs().unbind(dim=-1):
        is_quiet = frame.mean(dim=1) < level
        room = torch.where(is_quiet[:, None], frame, room)
        level = torch.where(is_quiet, frame.mean(dim=1), level * ROOM_RISE)
    found = heard_nothing(torch.zeros(2, 0, 0), 16)
    for part in latents.split(sizes, dim=-1):
        found = hear(found, part)
    assert torch.equal(found.room[..., 0], room)
    torch.testing.assert_close(torch.tensor(found.levels), level)


@pytest.mark.parametrize("pitch_hz", [60, 100, 210, 390])
def test_a_tone_is_continued_in_phase(pitch_hz):
    n_heard = context_samples(HOP, RATE_HZ)
    n = torch.arange(n_heard + 640)
    tone = torch.sin(2 * math.pi * pitch_hz * n / RATE_HZ) + 0.5 * torch.sin(
        4 * math.pi * pitch_hz * n / RATE_HZ
    )
    guess = continued(tone[:n_heard], 640, RATE_HZ)
    assert torch.equal(guess[:n_heard], tone[:n_heard])
    error = (guess - tone)[n_heard:].square().mean() / tone.square().mean()
    assert 10 * torch.log10(error) < -10


@pytest.mark.parametrize("hop", [16, 320, 960])
def test_there_is_sound_enough_for_the_longest_period_at_any_hop(hop):
    n_samples = context_samples(hop, 48_000)
    assert n_samples % hop == 0
    tone = torch.sin(2 * math.pi * 50 * torch.arange(n_samples) / 48_000)
    assert continued(tone, 2 * hop, 48_000).shape == (n_samples + 2 * hop,)


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_what_has_no_pitch_is_not_continued(level):
    noise = level * torch.randn(context_samples(HOP, RATE_HZ), generator=torch.Generator().manual_seed(0))
    assert continued(noise, HOP, RATE_HZ) is None
