"""The residual quantizer: an exact gradient, losses that are means, and no state outside the state_dict.

Shapes: B batch, D latent width, L frames, Q codebooks, K codewords.
"""

import pickle

import pytest
import torch
from torch.autograd.functional import jacobian

from telucodec.model.quantizer import ResidualVectorQuantizer, spread

Q, K, D, L = 6, 16, 5, 3
STAGES = pytest.mark.parametrize("n_active", [1, 4, Q], ids=["1-stage", "4-stages", "all-stages"])


def make(update="gradient", n_codebooks=Q, seed=0):
    torch.manual_seed(seed)
    quantizer = ResidualVectorQuantizer(n_codebooks=n_codebooks, codebook_size=K, latent_dim=D, update=update)
    with torch.no_grad():  # each stage finer than the one before, so that no residual is zero
        quantizer.codebooks.mul_(10 * 0.5 ** torch.arange(n_codebooks)[:, None, None])
    return quantizer


def draw(n_items=2, seed=1):
    return torch.randn(n_items, D, L, generator=torch.Generator().manual_seed(seed))


def stage_losses(quantizer, latents, name):
    """The loss of each stage alone, undone from the means over 1 to Q stages."""
    means = [
        getattr(quantizer(latents, torch.full((len(latents),), n)), name)
        for n in range(1, quantizer.n_codebooks + 1)
    ]
    sums = [n * mean for n, mean in enumerate(means, start=1)]
    return [now - before for now, before in zip(sums, [0.0, *sums[:-1]], strict=True)]


@STAGES
def test_the_jacobian_is_exactly_the_identity(n_active):
    quantizer, latents = make(), draw(1)
    matrix = jacobian(lambda x: quantizer(x, torch.tensor([n_active])).latents, latents)
    assert torch.equal(matrix.reshape(D * L, D * L), torch.eye(D * L))


def test_the_jacobian_is_exactly_the_identity_when_items_use_different_stages():
    quantizer, latents = make(), draw(4)
    n_active = torch.tensor([1, 4, Q, 2])
    matrix = jacobian(lambda x: quantizer(x, n_active).latents, latents)
    assert torch.equal(matrix.reshape(4 * D * L, 4 * D * L), torch.eye(4 * D * L))


def test_the_jacobian_is_exactly_the_identity_for_ema_codebooks():
    quantizer, latents = make("ema"), draw(1)
    matrix = jacobian(lambda x: quantizer(x).latents, latents)
    assert torch.equal(matrix.reshape(D * L, D * L), torch.eye(D * L))


@STAGES
def test_the_value_is_the_sum_of_the_codewords_that_decode(n_active):
    quantizer, latents = make(), draw()
    made = quantizer(latents, torch.full((2,), n_active))
    codes = quantizer.encode(latents, n_active)
    torch.testing.assert_close(made.latents, quantizer.decode(codes), rtol=0, atol=1e-6)
    assert torch.equal(made.codes[:, :n_active], codes)
    assert made.codes.shape == (2, Q, L)


def test_stages_are_spread_to_where_they_take_off_most():
    loud, quiet, late = [16.0, 8.0, 4.0, 2.0, 1.0], [1.0, 0.5, 0.25, 0.12, 0.06], [9.0, 8.9, 1.0, 0.9, 0.8]
    errors = torch.tensor([loud, quiet, late]).T.expand(3, 5, 3)
    assert spread(errors, torch.tensor([1, 2, 4])).tolist() == [[1, 1, 1], [3, 1, 2], [4, 4, 4]]


def test_spread_stages_keep_an_exact_gradient_and_the_value_that_decodes():
    quantizer, latents = make(), draw(1)
    latents[..., 0] *= 0.1  # a quiet frame
    made = quantizer(latents, torch.tensor([3]), is_spread=True)
    assert made.n_active[0, 0] < made.n_active[0].max()
    ended = torch.where(torch.arange(Q)[:, None] < made.n_active[:, None], made.codes, -1)
    torch.testing.assert_close(made.latents, quantizer.decode(ended), rtol=0, atol=1e-6)
    matrix = jacobian(lambda x: quantizer(x, torch.tensor([3]), is_spread=True).latents, latents)
    assert torch.equal(matrix.reshape(D * L, D * L), torch.eye(D * L))


@pytest.mark.parametrize("n_frames", [0, 1, L])
def test_errors_are_what_every_stage_leaves_of_each_item(n_frames):
    quantizer, latents = make(), draw()[..., :n_frames]
    codes, errors = quantizer.encode_with_errors(latents)
    assert codes.shape == (2, Q, n_frames)
    for n_stages in range(Q + 1):
        left = latents - quantizer.decode(codes[:, :n_stages])
        torch.testing.assert_close(errors[:, n_stages], left.square().sum(dim=1), rtol=1e-4, atol=1e-6)


def test_a_negative_code_adds_nothing():
    quantizer = make()
    codes, _ = quantizer.encode_with_errors(draw())
    ended = codes.clone()
    ended[1, 2:, 0] = -1
    latents, shorter = quantizer.decode(ended), quantizer.decode(codes[:, :2])
    torch.testing.assert_close(latents[1, :, 0], shorter[1, :, 0])
    torch.testing.assert_close(latents[..., 1:], quantizer.decode(codes)[..., 1:])


def test_codes_of_decoded_codes_are_the_codes():
    quantizer = make()
    corners = torch.tensor([-1.0, 1.0])
    grid = torch.cartesian_prod(*[corners] * 4)  # 16 codewords, each stage a tenth of the one before
    with torch.no_grad():
        quantizer.codebooks.zero_()
        quantizer.codebooks[:, :, :4] = grid * 0.1 ** torch.arange(Q)[:, None, None]
    codes = torch.randint(K, (2, 4, L), generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.encode(quantizer.decode(codes), 4), codes)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_every_stage_sends_its_own_commitment_gradient_to_the_encoder(update):
    quantizer = make(update)
    latents = draw().requires_grad_()
    losses = stage_losses(quantizer, latents, "commitment_loss")
    codes = quantizer.encode(latents.detach())
    for stage, loss in enumerate(losses):
        (grad,) = torch.autograd.grad(loss, latents, retain_graph=True)
        residual = latents.detach() - quantizer.decode(codes[:, : stage + 1]).detach()
        assert residual.abs().max() > 1e-3
        torch.testing.assert_close(grad, 2 * residual / latents.numel(), rtol=1e-3, atol=1e-5)


def test_every_codebook_gets_a_gradient_on_the_rows_it_chose_and_only_there():
    quantizer, latents = make(), draw()
    made = quantizer(latents)
    made.codebook_loss.backward()
    for stage in range(Q):
        is_chosen = torch.zeros(K, dtype=torch.bool)
        is_chosen[made.codes[:, stage].flatten()] = True
        assert torch.equal(quantizer.codebooks.grad[stage].abs().sum(dim=1) > 0, is_chosen), f"stage {stage}"


def test_the_codebook_loss_pulls_codewords_to_their_vectors():
    quantizer, latents = make(n_codebooks=1), draw()
    codes = quantizer.encode(latents)
    before = (latents - quantizer.decode(codes)).square().mean()
    quantizer(latents).codebook_loss.backward()
    with torch.no_grad():
        quantizer.codebooks -= 1.0 * quantizer.codebooks.grad
    assert (latents - quantizer.decode(codes)).square().mean() < 0.95 * before


def test_inactive_stages_teach_nothing():
    quantizer = make()
    latents = draw().requires_grad_()
    made = quantizer(latents, torch.tensor([2, 3]))
    (made.codebook_loss + made.commitment_loss).backward()
    assert quantizer.codebooks.grad[:3].flatten(1).any(dim=1).all()
    assert not quantizer.codebooks.grad[3:].any()
    second = torch.zeros(K, dtype=torch.bool)
    second[made.codes[1, 2]] = True  # stage 2 is used by item 1 alone
    assert torch.equal(quantizer.codebooks.grad[2].abs().sum(dim=1) > 0, second)


def test_each_loss_has_its_own_side():
    quantizer = make()
    latents = draw().requires_grad_()
    made = quantizer(latents)
    assert torch.autograd.grad(made.codebook_loss, latents, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(made.commitment_loss, quantizer.codebooks, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", ["codebook_loss", "commitment_loss"])
def test_duplicating_stages_does_not_scale_the_losses(name):
    latents, found = draw(), []
    for n_codebooks in (1, 3, 12):
        quantizer = make(n_codebooks=n_codebooks)
        torch.nn.init.zeros_(quantizer.codebooks)  # every stage sees the same residual and leaves it
        found.append(getattr(quantizer(latents), name).item())
    assert found == pytest.approx([latents.square().mean().item()] * 3, rel=1e-6)


def test_losses_are_means_over_the_active_stages_of_each_item():
    quantizer = make(n_codebooks=8)
    torch.nn.init.zeros_(quantizer.codebooks)
    latents = draw(3)
    made = quantizer(latents, torch.tensor([1, 8, 3]))
    assert made.commitment_loss.item() == pytest.approx(latents.square().mean().item(), rel=1e-6)
    assert made.codebook_loss.item() == pytest.approx(latents.square().mean().item(), rel=1e-6)


def test_an_item_is_independent_of_its_neighbors():
    quantizer, latents = make(), draw(3)
    other = latents.clone()
    other[1:] = 100.0
    ours, theirs = (quantizer(x, torch.tensor([4, 1, Q])) for x in (latents, other))
    assert torch.equal(ours.latents[0], theirs.latents[0])
    assert torch.equal(ours.codes[0], theirs.codes[0])


def test_the_residual_share_is_the_energy_each_stage_leaves():
    quantizer, latents = make(), draw()
    made = quantizer(latents)
    for stage in range(Q):
        left = latents - quantizer.decode(made.codes[:, : stage + 1])
        expected = left.square().sum() / latents.square().sum()
        torch.testing.assert_close(made.residual_share[stage], expected.detach(), rtol=1e-4, atol=1e-6)


def test_half_precision_around_it_changes_nothing():
    quantizer, latents = make(), draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(latents)
    outside = quantizer(latents)
    assert inside.latents.dtype == inside.commitment_loss.dtype == torch.float32
    assert torch.equal(inside.latents, outside.latents)
    assert torch.equal(inside.codes, outside.codes)


def test_silence_has_finite_losses_and_gradients():
    quantizer = make()
    latents = torch.zeros(1, D, L, requires_grad=True)
    made = quantizer(latents)
    (made.codebook_loss + made.commitment_loss + made.latents.sum()).backward()
    assert torch.isfinite(latents.grad).all()
    assert torch.isfinite(made.residual_share).all()


@pytest.mark.parametrize(("update", "is_parameter"), [("gradient", True), ("ema", False)])
def test_the_codebooks_are_all_the_state_there_is_and_it_is_saved(update, is_parameter):
    quantizer, latents = make(update), draw()
    assert list(quantizer.state_dict()) == ["codebooks"]
    assert bool(list(quantizer.parameters())) is is_parameter
    before = quantizer(latents).codes
    assert torch.equal(quantizer(latents).codes, before)  # no step, no change
    copy = make(update, seed=9)
    copy.load_state_dict(quantizer.state_dict())
    assert torch.equal(copy(latents).codes, before)


@pytest.mark.parametrize("change", ["write", "weigh"])
def test_stages_are_laid_out_again_when_something_has_changed(change):
    quantizer, latents = make(update="ema"), draw()
    quantizer.encode(latents)
    before = quantizer._searched[1]
    quantizer.encode(draw(seed=2))
    assert quantizer._searched[1] is before
    if change == "write":
        quantizer.codebooks.normal_(generator=torch.Generator().manual_seed(9))
    else:
        quantizer.weigh_search([0.01, 1.0, 1.0, 1.0, 100.0])
    fresh = make(update="ema")
    fresh.codebooks.copy_(quantizer.codebooks)
    fresh.search_scale.copy_(quantizer.search_scale)
    assert torch.equal(quantizer.encode(latents), fresh.encode(latents))
    assert quantizer._searched[1] is not before


def test_weights_made_for_inference_are_laid_out_anew_each_time():
    with torch.inference_mode():
        quantizer = make(update="ema")
    quantizer.encode(draw())
    with torch.inference_mode():
        quantizer.codebooks.mul_(-1)
    fresh = make(update="ema")
    fresh.codebooks.mul_(-1)
    assert torch.equal(quantizer.encode(draw()), fresh.encode(draw()))


def test_the_search_does_not_heed_autocast():
    quantizer, latents = make(update="ema"), draw()
    expected = quantizer.encode(latents)
    quantizer.weigh_search([1.0] * D)  # lays out stages anew
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(latents), expected)
    assert torch.equal(quantizer.encode(latents), expected)


def test_copies_leave_what_was_laid_out_behind():
    quantizer = make(update="ema")
    codes = quantizer.encode(draw())
    again = pickle.loads(pickle.dumps(quantizer))
    assert again._searched is None
    assert torch.equal(again.encode(draw()), codes)
    assert quantizer._searched is not None
