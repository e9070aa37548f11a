"""The check of likelihoods lets right ones pass and names what is wrong with the others."""

import pytest
import torch
from torch.nn import functional as fn

from telucodec.train.preflight.likelihood import check_likelihood

N_MIXED, N_LEVELS = 3, 64


def mixture(raw, targets, *, change=""):
    """Discretized mixture of logistics: the bin's mass, computed without a difference of near numbers.

    log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)).
    """
    weights, means, log_scales = raw.view(-1, 3, N_MIXED).unbind(dim=1)
    half = 1 / (N_LEVELS - 1)  # of a bin, levels lie on [-1, 1]
    values = (2 * half * targets - 1)[:, None]
    low, high = (-7.0, 7.0)
    if change == "one-sided scales, low":
        high = torch.inf
    if change == "one-sided scales, high":
        low = -torch.inf
    inverse = torch.exp(-log_scales.clamp(low, high))
    above, below = (values + half - means) * inverse, (values - half - means) * inverse
    inside = fn.logsigmoid(above) + fn.logsigmoid(-below) + torch.log(-torch.expm1(-2 * half * inverse))
    is_first, is_last = (targets == 0)[:, None], (targets == N_LEVELS - 1)[:, None]
    if change == "edges by value":
        is_first, is_last = means < -1 + half, means > 1 - half
    if change == "no tails":
        is_first = is_last = torch.zeros_like(is_first)
    if change == "lower tail only":
        is_last = torch.zeros_like(is_last)
    if change == "one-sided probability":
        above = above.clamp(max=3.0)
        inside = torch.log((torch.sigmoid(above) - torch.sigmoid(below)).clamp_min(1e-12))
    found = torch.where(is_first, fn.logsigmoid(above), torch.where(is_last, fn.logsigmoid(-below), inside))
    result = torch.logsumexp(fn.log_softmax(weights, dim=1) + found, dim=1)
    return result.clamp_min(-15.0) if change == "clamped below" else result


def mirror(raw):
    """The same mixture with its means on the other side of zero."""
    return raw * torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(N_MIXED)


def evidence(change):
    found = check_likelihood(
        lambda raw, targets: mixture(raw, targets, change=change),
        n_parameters=3 * N_MIXED,
        n_levels=N_LEVELS,
        mirror=mirror,
    )
    assert len(found) <= 1
    assert all(diagnosis.id == "likelihood-unsound" for diagnosis in found)
    return found[0].evidence if found else None


def test_a_mixture_of_logistics_with_edges_by_target_and_symmetric_clamps_passes():
    assert evidence("") is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("edges by value", "sum of all probabilities"),
        ("no tails", "sum of all probabilities"),
        ("lower tail only", "sum of all probabilities"),
        ("one-sided scales, low", "targets without a finite gradient"),
        ("one-sided scales, high", "targets without a finite gradient"),
        ("one-sided probability", "difference to the mirrored log-probability"),
        ("clamped below", "improbable targets without a gradient"),
    ],
)
def test_each_way_to_get_it_wrong_is_named(change, fault):
    assert evidence(change)["fault"] == fault


def test_a_distribution_that_leans_to_one_side_is_named_though_it_sums_to_one():
    def leaning(raw, targets):
        logits = mixture(raw.repeat_interleave(N_LEVELS, dim=0), torch.arange(N_LEVELS).repeat(len(raw)))
        logits = logits.view(len(raw), N_LEVELS) + 0.01 * torch.arange(N_LEVELS)
        return fn.log_softmax(logits, dim=1).gather(1, targets[:, None])[:, 0]

    found = check_likelihood(leaning, n_parameters=3 * N_MIXED, n_levels=N_LEVELS, mirror=mirror)
    assert found[0].evidence["fault"] == "difference to the mirrored log-probability"


def test_a_categorical_likelihood_passes_and_one_on_half_precision_does_not():
    def categorical(raw, targets):
        return fn.log_softmax(raw, dim=1).gather(1, targets[:, None])[:, 0]

    def coarse(raw, targets):
        return categorical(raw.bfloat16(), targets).float()

    assert check_likelihood(categorical, n_parameters=16, n_levels=16) == []
    found = check_likelihood(coarse, n_parameters=16, n_levels=16)
    assert found[0].evidence["fault"] == "sum of all probabilities"


def test_a_target_that_cannot_be_is_named():
    def masked(raw, targets):
        return fn.log_softmax(raw + torch.tensor([-torch.inf, 0, 0, 0]), dim=1).gather(1, targets[:, None])[
            :, 0
        ]

    found = check_likelihood(masked, n_parameters=4, n_levels=4)
    assert found[0].evidence["fault"] == "targets without a finite log-probability"
    assert found[0].evidence["value"] == 1.0
