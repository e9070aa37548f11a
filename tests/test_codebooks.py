"""Codewords learn, and the dead come back for good.

The revival tests are about a defect of several published codecs: the replaced codeword was
recomputed from moving sums that nobody had replaced, so it was dead again in the same step.
"""

import pytest
import torch

from telucodec.model.codebooks import CodebookLearner, k_means
from telucodec.model.quantizer import ResidualVectorQuantizer

Q, K, D, L = 3, 8, 4, 16
MODES = pytest.mark.parametrize("update", ["ema", "gradient"])


def make(update="ema", *, decay=0.9, revive_below=0.03, n_codebooks=Q, size=K, dim=D):
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(
        n_codebooks=n_codebooks, codebook_size=size, latent_dim=dim, update=update
    )
    return quantizer, CodebookLearner(quantizer, decay=decay, revive_below=revive_below)


def draw(n_items=4, seed=1):
    return torch.randn(n_items, D, L, generator=torch.Generator().manual_seed(seed))


def learn(quantizer, learner, latents, n_active=None, *, seed=0, optimizer=None):
    made = quantizer(latents, n_active)
    return made, learner.update(quantizer, latents, made.codes, made.n_active, seed=seed, optimizer=optimizer)


def residuals(quantizer, latents, codes):
    """What each stage saw, ``[Q, B * L, D]``."""
    left = [latents]
    for stage in range(1, quantizer.n_codebooks):
        left.append(latents - quantizer.decode(codes[:, :stage]))
    return torch.stack([x.transpose(1, 2).flatten(0, 1) for x in left]).detach()


def test_k_means_finds_clusters_that_are_there():
    generator = torch.Generator().manual_seed(3)
    centers = 10 * torch.eye(4)
    vectors = (centers[:, None] + 0.1 * torch.randn(4, 50, 4, generator=generator)).flatten(0, 1)
    found = k_means(vectors, 8, 10, generator)
    assert torch.cdist(centers, found).amin(dim=1).max() < 0.2
    assert torch.cdist(vectors, found).amin(dim=1).max() < 0.6


def test_k_means_takes_fewer_vectors_than_clusters():
    vectors = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    found = k_means(vectors, 8, 5, torch.Generator().manual_seed(0))
    assert torch.isfinite(found).all()
    assert torch.cdist(vectors, found).amin(dim=1).max() < 1e-6


@MODES
def test_after_the_k_means_start_every_stage_lowers_the_error(update):
    quantizer, learner = make(update)
    latents = draw(8)
    learner.initialize(quantizer, latents.transpose(1, 2).flatten(0, 1))
    shares = quantizer(latents).residual_share
    assert (torch.cat([torch.ones(1), shares]).diff() < -0.02).all()


def test_the_k_means_start_depends_on_its_seed_alone():
    first, second = (make() for _ in range(2))
    vectors = draw(8).transpose(1, 2).flatten(0, 1)
    for quantizer, learner in (first, second):
        torch.rand(7)  # whatever else was drawn in between
        learner.initialize(quantizer, vectors, seed=5)
    assert torch.equal(first[0].codebooks, second[0].codebooks)
    assert torch.equal(first[1].sums, first[0].codebooks)


def test_an_ema_codeword_moves_to_the_mean_of_its_vectors_by_the_known_amount():
    quantizer, learner = make(decay=0.75, n_codebooks=1, size=2, dim=1)
    quantizer.codebooks.copy_(torch.tensor([[[0.0], [10.0]]]))
    learner.sums.copy_(quantizer.codebooks)
    latents = torch.tensor([[[1.0, 2.0, 12.0]]])  # two vectors for codeword 0, one for codeword 1
    learn(quantizer, learner, latents)
    expected = [(0.75 * 0 + 0.25 * 3) / (0.75 + 0.25 * 2), (0.75 * 10 + 0.25 * 12) / (0.75 + 0.25 * 1)]
    assert quantizer.codebooks.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_every_ema_codebook_is_updated_towards_what_its_stage_saw():
    quantizer, learner = make()
    latents = draw()
    before = quantizer.codebooks.clone()
    made, _ = learn(quantizer, learner, latents)
    seen = residuals(_copy_with(quantizer, before), latents, made.codes)
    for stage in range(Q):
        for code in made.codes[:, stage].unique():
            mean = seen[stage][made.codes[:, stage].flatten() == code].mean(dim=0)
            moved = quantizer.codebooks[stage, code] - before[stage, code]
            assert moved @ (mean - before[stage, code]) > 0, f"stage {stage}, codeword {code}"


def _copy_with(quantizer, codebooks):
    copy = ResidualVectorQuantizer(n_codebooks=Q, codebook_size=K, latent_dim=D, update="ema")
    copy.codebooks.copy_(codebooks)
    return copy


def test_ema_codewords_settle_on_the_means():
    quantizer, learner = make(n_codebooks=1, size=2, dim=1, decay=0.5)
    quantizer.codebooks.copy_(torch.tensor([[[-1.0], [1.0]]]))
    learner.sums.copy_(quantizer.codebooks)
    for _ in range(40):
        learn(quantizer, learner, torch.tensor([[[-3.0, -5.0, 2.0, 4.0]]]))
    assert quantizer.codebooks.flatten().tolist() == pytest.approx([-4.0, 3.0], abs=1e-4)


@MODES
def test_stages_an_item_did_not_use_learn_nothing_from_it(update):
    used, idle = draw(1, seed=1), 50 + draw(1, seed=2)
    quantizer, learner = make(update)
    learn(quantizer, learner, torch.cat([used, idle]), torch.tensor([Q, 1]))
    alone, alone_learner = make(update)
    learn(alone, alone_learner, used)
    assert torch.equal(learner.usage[1:], alone_learner.usage[1:])
    assert torch.equal(quantizer.codebooks[1:], alone.codebooks[1:])
    assert not torch.equal(learner.usage[0], alone_learner.usage[0])


@MODES
def test_a_revived_codeword_equals_its_replacement_after_the_step(update):
    quantizer, learner = make(update)
    latents = draw()
    dead = [(0, 3), (1, 0), (2, 7)]
    with torch.no_grad():
        for stage, code in dead:
            quantizer.codebooks[stage, code] = 1e3  # never the nearest
            learner.sums[stage, code] = 1e3
            learner.usage[stage, code] = 0
    before = quantizer.codebooks.detach().clone()
    made, stats = learn(quantizer, learner, latents)
    seen = residuals(_copy_with(quantizer, before), latents, made.codes)
    assert stats.n_revived.tolist() == [1, 1, 1]
    for stage, code in dead:
        row = quantizer.codebooks[stage, code].detach()
        distance = (seen[stage] - row).abs().amax(dim=1)
        assert distance.min() < 1e-6, "not one of the vectors the stage saw"
        revived = row.clone()
        made, stats = learn(quantizer, learner, torch.zeros(0, D, L), seed=1)  # a step without data
        torch.testing.assert_close(quantizer.codebooks[stage, code].detach(), revived, rtol=1e-5, atol=1e-6)
        assert stats.n_revived.sum() == 0, "dead again at once"


def test_revival_resets_the_optimizer_moments_of_its_row_alone():
    quantizer, learner = make("gradient")
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=1e-3)
    latents = draw()
    quantizer(latents).codebook_loss.backward()
    optimizer.step()
    moments = [optimizer.state[quantizer.codebooks][name] for name in ("exp_avg", "exp_avg_sq")]
    for moment in moments:
        moment.fill_(5.0)
    learner.usage[1, 4] = 0
    made = quantizer(latents)
    codes = made.codes.clone()
    codes[:, 1][codes[:, 1] == 4] = 5  # nobody uses the dead codeword
    learner.update(quantizer, latents, codes, made.n_active, seed=0, optimizer=optimizer)
    expected = torch.full((Q, K, D), 5.0)
    expected[1, 4] = 0
    for moment in moments:
        assert torch.equal(moment, expected)


def test_replacements_are_different_vectors_and_depend_on_the_seed_alone():
    found = []
    for seed in (7, 7, 8):
        quantizer, learner = make("gradient")
        learner.usage[0, :4] = -1e6
        learn(quantizer, learner, draw(), seed=seed)
        found.append(quantizer.codebooks[0, :4].detach().clone())
        assert len(found[-1].unique(dim=0)) == 4
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@MODES
def test_usage_recovers_when_the_mean_of_the_latents_jumps(update):
    """Low-rank data whose mean jumps, as an encoder's output does early in training (64 codewords, 16-d)."""
    size, dim, rank = 64, 16, 4
    quantizer, learner = make(update, n_codebooks=1, size=size, dim=dim)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(rank, dim, generator=generator)

    def batch(shift):
        vectors = torch.randn(512, rank, generator=generator) @ mix + shift
        return vectors.T[None]  # [1, D, 512]

    learner.initialize(quantizer, batch(0.0)[0].T)
    used, lowest = [], size
    for step in range(140):
        made, _ = learn(quantizer, learner, batch(0.0 if step < 20 else 30.0), seed=step)
        used.append(len(made.codes.unique()))
        lowest = min(lowest, used[-1])
    assert used[19] > 0.9 * size
    assert lowest < 0.2 * size, "the shift did not hurt: this test proves nothing"
    assert used[-1] > 0.9 * size


def test_health_is_reported_by_stage():
    quantizer, learner = make(revive_below=0.5)
    learner.usage.fill_(1.0)
    learner.usage[1] = torch.tensor([8.0, *[0.0] * 7])
    learner.sums.copy_(quantizer.codebooks * learner.usage[..., None])
    stats = learner.update(
        quantizer, torch.zeros(0, D, L), torch.zeros(0, Q, L, dtype=torch.int64), torch.zeros(0), seed=0
    )
    assert stats.perplexity.tolist() == pytest.approx([8.0, 1.0, 8.0], rel=1e-4)
    assert stats.usage.tolist() == pytest.approx([1.0, 1 / 8, 1.0])


def test_training_state_is_saved_with_the_run_and_not_with_the_codec():
    quantizer, learner = make()
    assert set(learner.state_dict()) == {"usage", "sums"}
    assert set(quantizer.state_dict()) == {"codebooks"}
