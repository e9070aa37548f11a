"""One head per job: spare and idle output layers are named, different jobs and the codec's own are not."""

import pytest
import torch
from test_training import CONFIG, make_trainee, voiced
from torch import nn
from torch.nn import functional as fn

from telucodec.train.assembly import Assembly
from telucodec.train.preflight.heads import check_heads, output_gb
from telucodec.train.preflight.network import weighted_terms

N_CLASSES, N_STEPS = 50, 7


class Prior(nn.Module):
    """A trunk, and two linear heads on what it gives; ``use`` says what becomes of their outputs."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.trunk = nn.Conv1d(4, 8, 1)
        self.first = nn.Linear(8, N_CLASSES)
        self.second = nn.Linear(8, N_CLASSES if use != "other shape" else 3)

    def losses(self):
        x = self.trunk(torch.randn(1, 4, N_STEPS)).transpose(1, 2)  # [1, L, 8]
        first, second = self.first(x), self.second(2 * x if self.use == "own input" else x)
        target = torch.zeros(1, N_STEPS, dtype=torch.int64)
        terms = {"nll": nll(first, target)}
        if self.use == "same loss":
            terms["nll"] = nll(first + second, target)
        elif self.use == "own loss":
            terms["length"] = nll(second, target)
        elif self.use == "both losses":
            terms = {"nll": nll(first + second, target), "smooth": (first * second).mean()}
        elif self.use in ("other shape", "own input"):
            terms["nll"] = terms["nll"] + second.square().mean()
        return terms


def nll(logits, target):
    return fn.cross_entropy(logits.transpose(1, 2), target)


def examine(use, **changes):
    prior = Prior(use)
    return check_heads(prior, prior.losses, **({"n_items": 4, "allowed_gb": 1.0} | changes))


@pytest.mark.parametrize(
    ("use", "names"), [("same loss", "first, second"), ("both losses", "first, second"), ("none", "second")]
)
def test_heads_that_share_a_job_or_have_none_are_named(use, names):
    found, _ = examine(use)
    assert [diagnosis.id for diagnosis in found] == ["heads-duplicate"]
    assert found[0].evidence["heads"] == names


@pytest.mark.parametrize("use", ["own loss", "other shape", "own input"])
def test_heads_with_a_loss_a_shape_or_an_input_of_their_own_are_not(use):
    found, lines = examine(use)
    assert found == []
    assert lines == ["heads: first, second; 0.00 GB for their outputs"]


def test_small_twins_are_what_mixtures_are_made_of():
    prior = Prior("same loss")
    prior.rest = nn.Parameter(torch.zeros(20_000))
    assert check_heads(prior, prior.losses, n_items=4, allowed_gb=1.0)[0] == []


def test_the_logits_of_the_notes_accident_are_weighed_before_they_are_made():
    assert output_gb(4, 16_384, 65_536) == pytest.approx(3 * 17.18, rel=1e-3)
    found, _ = examine("own loss", n_items=4_000_000, allowed_gb=16.0)
    assert [diagnosis.id for diagnosis in found] == ["memory-over-budget"]
    assert found[0].evidence["estimated GB"] == pytest.approx(2 * output_gb(4_000_000, N_STEPS, N_CLASSES))
    assert found[0].evidence["largest tensor"] == "first, 1x7x50 for one of 4000000 items"


def test_the_codec_has_one_head_per_job():
    clip = voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(CONFIG, clip)
    assembly = Assembly(fabric, trainee, loss)
    found, lines = check_heads(
        trainee.codec, lambda: weighted_terms(assembly, CONFIG, clip), n_items=1, allowed_gb=1.0
    )
    assert found == []
    assert lines[0].startswith("heads: ")
    assert "decoder.coarse_out" in lines[0]
    assert trainee.codec.decoder.coarse_out._forward_hooks == {}
