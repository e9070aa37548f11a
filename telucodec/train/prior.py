"""A network that predicts codes, trained on codes of many clips and rounded to integers.

It minimizes the bits that codes take: those of the group of each code, and those of its place in the group
(see `telucodec.prior.tables`), each stage predicted from what the stages before it add up to
(`telucodec.prior.network`). Tables fitted by counting say where it begins: which codewords are in a group,
and the basis and the bias of scores.

Fitting is in floating point and need not repeat bit for bit on another machine: the integers it ends in
are what encoder and decoder share.

Shapes: Q codebooks, K codewords, D latent width, F frames of all clips, B frames and S stages of a batch,
O offsets, H and E hidden units, R rank, G groups of T symbols.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.errors import DataError
from telucodec.prior.network import ACTIVE, Network
from telucodec.prior.predictor import UNTOLD
from telucodec.prior.tables import SCORE_LIMIT, STEP_BITS, UNUSED, Tables, group_size, n_groups, score_bounds

log = logging.getLogger(__name__)

Whole = TypeVar("Whole", bound=np.integer)

OFFSETS = -2, -1, 0, 1, 2  # frames
N_UNITS = 192  # of each hidden layer
N_EPOCHS = 2.0  # that each code is seen on average, in each copy of its clip
BATCH_FRAMES, BATCH_STAGES = 512, 8
HALF_AS_OFTEN = 6  # a stage so many behind is seen, since few streams have the last ones
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 2e-3, 0.01, 1.0
WARMUP_STEPS, LEAST_STEPS = 100, 30
AVERAGED = 0.99  # of the averaged weights that stay in each step
N_PROBED = 4096  # frames that say how large hidden units become
LARGEST_WORD = 1 << 10
_LEAST = 1e-9


class PriorNetwork(nn.Module):
    """The network in floating point, with its basis and biases of scores.

    Args:
        codebooks: ``[Q, K, D]``.
        tables: fitted by counting, of the same codebooks.
    """

    words: Tensor
    symbols: Tensor

    def __init__(self, codebooks: Tensor, tables: Tables) -> None:
        super().__init__()
        (n_stages, size, width), n_units = codebooks.shape, N_UNITS
        self.unit = float(codebooks[0].std().clamp_min(_LEAST))  # of words
        self.register_buffer("words", fn.pad(codebooks / self.unit, (0, 0, 0, 1)))  # [Q, K + 1, D]
        self.register_buffer("symbols", torch.from_numpy(tables.symbols.astype(np.int64)))  # [Q, K]
        n_inputs = len(OFFSETS) * width
        rank = tables.basis.shape[1]
        self.first = nn.Parameter(torch.randn(n_inputs, n_units) / math.sqrt(n_inputs))
        self.first_bias = nn.Parameter(torch.zeros(n_stages, 1, n_units))
        self.told = nn.Parameter(torch.zeros(len(OFFSETS), n_stages + 1, n_units))  # by depths
        self.second = nn.Parameter(torch.randn(n_units, n_units) * math.sqrt(2 / n_units))
        self.second_bias = nn.Parameter(torch.zeros(n_stages, 1, n_units))
        self.third = nn.Parameter(torch.randn(n_stages, n_units, rank) * 0.3 / math.sqrt(n_units))
        self.group_size, self.n_groups = group_size(size), n_groups(size)
        basis = torch.from_numpy(tables.basis.astype(np.float32))
        self.basis = nn.Parameter(
            0.3 * basis / basis.square().mean(dim=2, keepdim=True).sqrt().clamp_min(1.0)
        )
        scale = math.log(2) * 2.0 ** -torch.from_numpy(tables.fractions.astype(np.float32))
        self.bias = nn.Parameter(torch.from_numpy(tables.bias.astype(np.float32)) * scale[:, None])

    def inputs(self, codes: Tensor, stages: Tensor) -> Tensor:
        """What codes ``[Q, B, O]``, K for none, before each of ``stages`` add up to, ``[S, B, O * D]``."""
        is_earlier = torch.tensor(OFFSETS)[:, None] < 0
        found = {0: (self.words[0][codes[0]] * is_earlier).flatten(1)}
        sums = self.words.new_zeros(*codes.shape[1:], self.words.shape[2])  # [B, O, D]
        for stage in range(1, int(stages.max()) + 1):
            sums = sums + self.words[stage - 1][codes[stage - 1]]
            if (stages == stage).any():
                found[stage] = sums.flatten(1)
        return torch.stack([found[stage] for stage in stages.tolist()])

    def hidden(self, inputs: Tensor, depths: Tensor, stages: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers of hidden units, ``[S, B, H]``.

        Args:
            inputs: as from `inputs`.
            depths: ``[B, O]``, 0 where there is no frame, or `UNTOLD`.
            stages: their numbers.
        """
        told = fn.pad(self.told, (0, 0, 0, 1))[torch.arange(len(OFFSETS)), depths].sum(dim=1)  # [B, H]
        first = torch.relu(inputs @ self.first + self.first_bias[stages] + told)
        return first, torch.relu(first @ self.second + self.second_bias[stages])

    def bits(self, inputs: Tensor, depths: Tensor, codes: Tensor, stages: Tensor) -> Tensor:
        """Bits ``[S, B]`` of codes ``[S, B]``, other arguments as in `hidden`."""
        return self.bits_at(self.hidden(inputs, depths, stages)[1] @ self.third[stages], codes, stages)

    def bits_at(self, vectors: Tensor, codes: Tensor, stages: Tensor) -> Tensor:
        """Bits ``[S, B]`` of codes ``[S, B]`` whose scores have the vectors ``[S, B, R]``."""
        basis, bias = self.basis[stages], self.bias[stages]
        n_stages, n_codes = codes.shape
        symbols = self.symbols[stages].gather(1, codes)
        size = self.words.shape[1] - 1
        groups, places = symbols // self.group_size, symbols % self.group_size
        of_groups = vectors @ basis[..., size:] + bias[:, None, size:]
        lacking = self.n_groups * self.group_size - size
        grid = self.n_groups, self.group_size
        inside = fn.pad(basis[..., :size], (0, lacking)).view(*basis.shape[:2], *grid).transpose(1, 2)
        biases = fn.pad(bias[:, :size], (0, lacking), value=-torch.inf).view(n_stages, *grid)
        rows = (torch.arange(n_stages, device=codes.device)[:, None] * self.n_groups + groups).flatten()
        chosen = inside.flatten(0, 1)[rows]  # [S * B, R, T]
        of_places = torch.bmm(vectors.flatten(0, 1)[:, None], chosen)[:, 0] + biases.flatten(0, 1)[rows]
        nats = fn.cross_entropy(of_groups.flatten(0, 1), groups.flatten(), reduction="none")
        nats = nats + fn.cross_entropy(of_places, places.flatten(), reduction="none")
        return nats.view(n_stages, n_codes) / math.log(2)


class _Corpus:
    """Codes of all clips end to end, in packets as they will be coded."""

    def __init__(self, even: Sequence[Codes], uneven: Sequence[Codes], size: int, packet_frames: int) -> None:
        clips = [clip for clip in (*even, *uneven) if clip.shape[-1]]
        if not clips:
            raise DataError("no codes to train a network on; give at least one clip that is not empty")
        codes = torch.from_numpy(np.concatenate(clips, axis=1).astype(np.int32))  # [Q, F]
        n_even = sum(clip.shape[-1] for clip in even)
        depths = (codes != ABSENT).sum(dim=0)
        self.depths = torch.where(torch.arange(len(depths)) < n_even, UNTOLD, depths)  # [F]
        self.codes = codes.clamp_(max=size)
        lengths = torch.tensor([clip.shape[1] for clip in clips])
        places = torch.cat([torch.arange(int(length)) for length in lengths])
        is_first = places % packet_frames == 0
        self.packets = is_first.cumsum(0)  # [F]
        self.size = size

    @property
    def n_frames(self) -> int:
        return self.codes.shape[1]

    def around(self, frames: Tensor, n_stages: int) -> tuple[Tensor, Tensor]:
        """Codes ``[Q, B, O]`` of the first stages, and depths ``[B, O]``, around each of ``frames``.

        Those of other packets are absent.
        """
        at = frames[:, None] + torch.tensor(OFFSETS)
        inside = at.clamp(0, self.n_frames - 1)
        is_there = (at == inside) & (self.packets[inside] == self.packets[frames][:, None])
        codes = torch.where(is_there, self.codes[:n_stages, inside].long(), self.size)
        return codes, torch.where(is_there, self.depths[inside], 0)


def fit_network(
    even: Sequence[Codes],
    uneven: Sequence[Codes],
    tables: Tables,
    codebooks: Tensor,
    *,
    packet_frames: int,
    seed: int = 0,
) -> tuple[Tables, Network]:
    """A network for codes like these, and its tables: those given, with other scores and no contexts.

    Args:
        even: codes ``[Q, L]`` of training clips, with at least two stages.
        uneven: of frames that end early, their later codes `ABSENT`.
        tables: fitted to the same codes.
        codebooks: ``[Q, K, D]``.
        packet_frames: of the packets that will be coded; other lengths work, a little less well.

    Raises:
        DataError: no frames.
    """
    corpus = _Corpus(even, uneven, codebooks.shape[1], packet_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PriorNetwork(codebooks.detach().cpu().float(), tables)
        _train(model, corpus, N_EPOCHS)
        probe = torch.randperm(corpus.n_frames)[:N_PROBED]
    return _rounded(model, tables, corpus, probe)


def _train(model: PriorNetwork, corpus: _Corpus, n_epochs: float) -> None:
    """Train ``model``; its weights are then those averaged over the last steps."""
    n_stages = len(model.third)
    n_frames, n_chosen = min(BATCH_FRAMES, corpus.n_frames), min(BATCH_STAGES, n_stages)
    shares = 1 / (torch.arange(n_stages) + HALF_AS_OFTEN)
    n_steps = max(LEAST_STEPS, round(n_epochs * corpus.n_frames * n_stages / (n_frames * n_chosen)))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    averaged = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(n_steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = rate * (0.01 + 0.99 * math.cos(math.pi / 2 * step / n_steps) ** 2)
        frames = torch.randint(corpus.n_frames, (n_frames,))
        stages = torch.multinomial(shares, n_chosen).sort().values
        bits = _mean_bits(model, corpus, frames, stages)
        optimizer.zero_grad()
        bits.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        kept = min(AVERAGED, step / (step + 10))
        for mean, parameter in zip(averaged, model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - kept)
        if step % 500 == 0 or step == n_steps - 1:
            log.info("network of codes: step %d of %d, %.3f bits a code", step + 1, n_steps, bits.item())
    with torch.no_grad():
        for mean, parameter in zip(averaged, model.parameters(), strict=True):
            parameter.copy_(mean)


def _mean_bits(model: PriorNetwork, corpus: _Corpus, frames: Tensor, stages: Tensor) -> Tensor:
    """Of the codes that ``frames`` have in these ``stages``; 0 if they have none."""
    around, depths = corpus.around(frames, int(stages.max()) + 1)
    codes = corpus.codes[:, frames][stages].long()
    is_there = codes < corpus.size
    bits = model.bits(model.inputs(around, stages), depths, codes.clamp(max=corpus.size - 1), stages)
    return (bits * is_there).sum() / is_there.sum().clamp_min(1)


@torch.no_grad()
def _rounded(model: PriorNetwork, tables: Tables, corpus: _Corpus, probe: Tensor) -> tuple[Tables, Network]:
    """The integers of ``model``, its units scaled to fill their range on the frames ``probe``."""
    n_stages, width = len(model.third), model.words.shape[2]
    stages = torch.arange(n_stages)
    around, depths = corpus.around(probe, n_stages)
    hidden = model.hidden(model.inputs(around, stages), depths, stages)
    units = [layer.amax(dim=(0, 1)).double() for layer in hidden]
    largest = float(model.words.abs().max()) * model.unit
    digits = max(0, math.floor(math.log2(LARGEST_WORD / max(largest, _LEAST))))
    words = 2.0**digits * model.unit  # of one
    of_words = model.first.double().view(len(OFFSETS), width, -1)
    first = torch.cat([of_words, model.told.double() * model.unit], dim=1)  # [O, D + 1 + Q, H]
    first_scale = _scale(first.flatten(0, 1))  # [H]
    first_shifts, first_units = _shifts(first_scale * words, units[0])
    second = model.second.double() / first_units[:, None]
    second_scale = _scale(second)
    second_shifts, second_units = _shifts(second_scale, units[1])
    basis = model.basis.double()
    peaks = basis.abs().amax(dim=2).clamp_min(_LEAST) / 127  # [Q, R]
    third = model.third.double() / second_units[:, None] * peaks[:, None] / math.log(2)  # [Q, E, R]
    scores = [
        _scores(*parts)
        for parts in zip(
            third, (basis / peaks[..., None]).round(), model.bias.double() / math.log(2), strict=True
        )
    ]
    size, rank = tables.codebook_size, basis.shape[1]
    layers, whole_basis, whole_bias, fractions = zip(*scores, strict=True)
    told = replace(
        tables,
        stages=np.full((n_stages, 1), UNUSED, dtype=tables.stages.dtype),
        offsets=np.zeros((n_stages, 1), dtype=np.int8),
        classes=np.zeros((n_stages, 1, size + 1), dtype=np.uint8),
        vectors=np.zeros((n_stages, 1, 1, rank), dtype=np.int16),
        basis=np.stack(whole_basis),
        bias=np.stack(whole_bias),
        fractions=np.array(fractions, dtype=np.uint8),
    )
    whole_third, third_shifts = zip(*layers, strict=True)
    network = Network(
        offsets=np.array(OFFSETS, dtype=np.int8),
        digits=np.array([digits], dtype=np.uint8),
        first=_whole(first * first_scale, np.int8),
        first_bias=_biases(model.first_bias, first_scale * words, first_shifts),
        first_shifts=_whole(first_shifts, np.uint8),
        second=_whole(second * second_scale, np.int8),
        second_bias=_biases(model.second_bias, second_scale, second_shifts),
        second_shifts=_whole(second_shifts, np.uint8),
        third=np.stack(whole_third),
        third_shifts=np.stack(third_shifts),
    )
    return told, network


def _scores(
    third: Tensor, basis: Tensor, bias: Tensor
) -> tuple[tuple[NDArray[np.int8], NDArray[np.uint8]], NDArray[np.int8], NDArray[np.int32], int]:
    """Third layer ``[E, R]`` and its shifts, basis, bias and fraction of one stage, as exact as sums may be.

    Args:
        third: in bits, of a ``basis`` ``[R, K + G]`` of whole numbers; ``bias`` ``[K + G]`` in bits.
    """
    for fraction in range(16, STEP_BITS - 1, -1):
        scaled = third * 2.0**fraction
        shifts = (127 / scaled.abs().amax(dim=0).clamp_min(_LEAST)).log2().floor().clamp(max=20)
        if shifts.min() < 0:
            continue
        layer = _whole(scaled * 2**shifts, np.int8), _whole(shifts, np.uint8)
        lost = 0.5 * (shifts > 0).double() @ basis  # what shifts round down on average
        parts = _whole(basis, np.int8), _whole(bias * 2.0**fraction + lost, np.int32)
        longest = (ACTIVE * np.abs(layer[0].astype(np.int64)).sum(axis=0) >> layer[1].astype(np.int64)) + 1
        if int(score_bounds(longest[None], parts[0][None], parts[1][None]).max()) < SCORE_LIMIT:
            return layer, *parts, fraction
    raise DataError(
        "the codes are too regular for a network of integers; fit on more, and more varied, audio"
    )


def _scale(weights: Tensor) -> Tensor:
    """By which columns of ``weights`` become whole numbers of up to 127."""
    return 127 / weights.abs().amax(dim=0).clamp_min(_LEAST)


def _shifts(scale: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Digits that sums of this ``scale`` lose, to be `ACTIVE` at most, and the scale of what is left."""
    shifts = (scale * peaks.clamp_min(_LEAST) / ACTIVE).log2().ceil().clamp(0, 30)
    return shifts, scale / 2**shifts


def _biases(biases: Tensor, scale: Tensor, shifts: Tensor) -> NDArray[np.int32]:
    """Biases ``[Q, H]`` of whole sums, with the half by which a shift rounds to the nearest."""
    return _whole(biases[:, 0].double() * scale + 2 ** (shifts - 1) * (shifts > 0), np.int32)


def _whole(values: Tensor, dtype: type[Whole]) -> NDArray[Whole]:
    limits = np.iinfo(dtype)
    found: NDArray[Whole] = values.round().clamp(limits.min, limits.max).numpy().astype(dtype)
    return found
