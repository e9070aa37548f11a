"""Optimizer groups, schedule and averaged weights, by known numbers."""

import itertools

import pytest
import torch

from telucodec.config import ModelConfig, OptimConfig, QuantizerConfig
from telucodec.model.codec import build_codec
from telucodec.train.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate

CONFIG = OptimConfig(lr=1e-2, final_lr_share=0.1, n_warmup_steps=10)


def tiny_codec(update="gradient"):
    torch.manual_seed(0)
    quantizer = QuantizerConfig(n_codebooks=2, codebook_size=4, codebook_update=update)
    return build_codec(
        ModelConfig(hop=8, fine_hop=4, width=4, fine_width=4, latent_dim=4, quantizer=quantizer)
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-3), (4, 5e-3), (9, 1e-2), (10, 1e-2), (60, 1e-2 * 0.55), (110, 1e-3), (500, 1e-3)],
)
def test_the_rate_warms_up_then_falls_along_a_cosine_to_its_floor(step, expected):
    assert learning_rate(step, 110, CONFIG) == pytest.approx(expected, rel=1e-9)


def test_the_rate_never_rises_after_the_warmup():
    rates = [learning_rate(step, 110, CONFIG) for step in range(10, 120)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_no_warmup_starts_at_the_full_rate():
    assert learning_rate(0, 100, OptimConfig(lr=1e-2, n_warmup_steps=0)) == 1e-2


def test_a_plan_shorter_than_its_warmup_still_has_a_rate():
    assert 0 < learning_rate(5, 5, CONFIG) <= 1e-2


LINEAR_PATH = (
    "encoder.analysis.",
    "encoder.fine_analysis.",
    "encoder.linear_out.",
    "decoder.linear_in.",
    "decoder.synthesis.",
    "decoder.fine_synthesis.",
)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_every_parameter_is_optimized_once_and_only_learned_kernels_decay(update):
    codec = tiny_codec(update)
    optimizer = build_optimizer(codec, OptimConfig(weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(codec.parameters()))
    for name, parameter in codec.named_parameters():
        is_kernel = name.endswith("weight") and not name.startswith(LINEAR_PATH)
        assert decay[id(parameter)] == (0.5 if is_kernel else 0.0), name


def test_the_linear_path_moves_at_its_own_share_of_the_rate():
    codec = tiny_codec()
    optimizer = build_optimizer(codec, OptimConfig(linear_path_lr_share=0.25))
    set_learning_rate(optimizer, 8e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in codec.named_parameters():
        assert rates[id(parameter)] == pytest.approx(2e-3 if name.startswith(LINEAR_PATH) else 8e-3), name


def test_the_first_average_is_of_recent_weights_and_a_later_one_is_slow():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.9)
    torch.nn.init.ones_(model.weight)
    expected, seen = 0.0, []
    for n in range(1, 200):
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + 1 - decay
        seen.append(average.weights["weight"].item())
        assert seen[-1] == pytest.approx(expected, rel=1e-5)
    assert seen[0] == pytest.approx(9 / 11)
    assert seen[-1] == pytest.approx(1.0, abs=1e-4)


def test_an_average_holds_buffers_too_and_does_not_touch_the_model():
    codec = tiny_codec("ema")
    average = WeightAverage(codec, 0.5)
    assert set(average.weights) == set(codec.state_dict())
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    codec.quantizer.codebooks.add_(1.0)
    before["quantizer.codebooks"] += 1.0
    average.update(codec)
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())
    assert not torch.equal(average.weights["quantizer.codebooks"], before["quantizer.codebooks"])


def test_an_average_restored_from_its_state_goes_on_bit_for_bit():
    model = torch.nn.Linear(3, 2)
    whole = WeightAverage(model, 0.99)
    with torch.no_grad():
        model.weight.add_(1)
    whole.update(model)
    other = WeightAverage(torch.nn.Linear(3, 2), 0.99)
    other.load_state_dict(whole.state_dict())
    with torch.no_grad():
        model.weight.mul_(3)
    for average in (whole, other):
        average.update(model)
    assert other.n_updates == whole.n_updates == 2
    assert all(torch.equal(other.weights[name], whole.weights[name]) for name in whole.weights)
