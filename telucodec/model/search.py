"""Which codewords, one per stage, come nearest together: a search that keeps a few paths open.

The nearest codeword of each stage is not the best choice for the stages together. Keeping the
best ``width`` partial sums from stage to stage (the M-search of multistage vector quantization:
LeBlanc, Bhattacharya, Mahmoud and Cuperman 1993, IEEE Transactions on Speech and Audio Processing
1 (4)), half as many in the second half of the stages, leaves a seventh less error with 4 paths; 1 is the
usual greedy search. What decodes the codes does not change.

Which sums are kept is judged with vectors and codewords rounded to bytes: .004 dB more error, for products
that processors make four times as fast and that are exact in any order, so that it makes no difference how
they are made or how many vectors are searched at once. The errors of the paths are not rounded.

Vectors are turned to the axes along which codewords differ most. Where paths are judged, axes that hold the
last 1 % of what codewords of a stage differ by are left out: half of all in the first stage of the shipped
weights, an eighth in late ones. That costs another .002 dB.

Where it is known what a bit may cost, vectors end where their error hardly falls any more. Part of what that
saves goes into twice as many paths in the first stages, where a choice binds most of the others.

Shapes: N vectors, M of them still searched, D latent width, Q codebooks, K codewords, W paths kept, W' at one
stage.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.nn.packed import Packed, can_pack

LARGEST = 127  # of a signed byte
N_ROWS = 16  # of the candidates laid out as a matrix, to look for the best column by column
N_FEW = 4  # vectors for which looking through all is faster
WIDE = 1 / 6  # of the stages keep twice as many paths where most vectors end early
HELD = 0.99  # of what codewords of a stage differ by, in the axes that count where paths are judged
N_TOGETHER = 16  # axes that are left out together, since products like whole vectors
N_BLOCK = 256  # vectors that are searched at once at most, so that their sums stay in the cache


class Fit(nn.Module):
    """How near the codewords of one stage are; the codebook ``[K, D]`` must not change after.

    Args:
        n_dims: how many of the D dimensions count; None: all.
        is_first: the mean of the codewords is worth taking off, so that bytes tell of the differences.
        is_packed: for a few vectors at a time.
    """

    def __init__(
        self, codebook: Tensor, *, n_dims: int | None = None, is_first: bool = False, is_packed: bool = False
    ) -> None:
        super().__init__()
        self.codebook = codebook
        codebook = codebook[:, :n_dims].contiguous()
        self._n_dims = codebook.shape[1]
        self._mean = codebook.mean(dim=0) if is_first else None
        codebook = codebook if self._mean is None else codebook - self._mean
        self._offset = codebook.square().sum(dim=1) / -2
        steps = _steps(codebook)
        self._steps = steps.T  # [1, K]
        self._products = _products((codebook / steps).round(), is_packed=is_packed)

    def forward(self, vectors: Tensor) -> Tensor:
        """About how near vectors ``[N, D]`` are to each codeword, ``[N, K]``.

        Minus half of the squared distance, and plus half of the vector's squared length: its own, unless
        the mean was taken off.
        """
        vectors = vectors[:, : self._n_dims]
        if self._mean is not None:
            vectors = vectors - self._mean
        steps = _steps(vectors)
        scores = self._products((vectors / steps).round_()).to(vectors.dtype).mul_(self._steps)
        return torch.addcmul(self._offset, scores, steps, out=scores)


class Stages(nn.Module):
    """The stages of a quantizer as they are now, for searches.

    Args:
        codebooks: ``[Q, K, D]``.
        scale: ``[D]``, by which vectors and codewords are multiplied where their difference is measured.
        is_packed: for a few vectors at a time.
    """

    def __init__(self, codebooks: Tensor, scale: Tensor, *, is_packed: bool = False) -> None:
        super().__init__()
        codebooks = codebooks * scale
        spread = _spread(codebooks)
        axes = torch.linalg.eigh(spread.mean(dim=0))[1].flip(1)  # most first
        held = torch.einsum("ij,qik,kj->qj", axes, spread, axes).cumsum(dim=1)  # [Q, D]
        n_dims = ((held < HELD).sum(dim=1).div(N_TOGETHER, rounding_mode="floor") + 1) * N_TOGETHER
        self._turn = scale[:, None] * axes
        self._fits = [
            Fit(book, n_dims=n, is_first=stage == 0, is_packed=is_packed)
            for stage, (book, n) in enumerate(zip(codebooks @ axes, n_dims.tolist(), strict=True))
        ]
        self._parts = nn.ModuleList(self._fits)  # a recording asks

    def search(self, vectors: Tensor, width: int, least: Sequence[float] | None = None) -> "Found":
        """See `search`."""
        return search(vectors @ self._turn, self._fits, width, least)


class Found(NamedTuple):
    """What a search has found."""

    codes: Tensor  # [Q, N]
    errors: Tensor  # [Q + 1, N] squared error of each vector after 0 to Q stages


def search(vectors: Tensor, stages: Sequence[Fit], width: int, least: Sequence[float] | None = None) -> Found:
    """Codes of vectors ``[N, D]`` whose codewords, one of each of Q ``stages``, add up near to them.

    Args:
        width: W; the codes of fewer stages are then nearly, not exactly, the best for these alone.
        least: squared error, ``[Q]``. A vector ends at a stage that leaves it less than that, or if it has
            lost half of its energy and this stage and the one before took off less together. Behind that
            its codes are 0 and its error stays.
    """
    blocks = torch.tensor_split(vectors, max(1, -(-len(vectors) // N_BLOCK)))
    found = [_searched(block, stages, width, least) for block in blocks]
    return Found(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest of ``[K, D]`` codewords to each of ``[..., D]``, the lowest on a tie."""
    offset = codebook.square().sum(dim=1) / -2
    return fn.linear(vectors, codebook, offset).argmax(dim=-1)


def _spread(codebooks: Tensor) -> Tensor:
    """How codewords of each stage differ, ``[Q, D, D]`` of trace 1; all alike where that is not a number."""
    apart = codebooks - codebooks.mean(dim=1, keepdim=True)
    spread = apart.mT @ apart
    total = spread.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    alike = torch.eye(spread.shape[1], dtype=spread.dtype, device=spread.device) / spread.shape[1]
    return torch.where(torch.isfinite(total) & (total > 0), spread / total, alike)


def _steps(vectors: Tensor) -> Tensor:
    """What one unit of a byte stands for in each of ``[N, D]``, ``[N, 1]``."""
    return vectors.abs().amax(dim=1, keepdim=True).div_(LARGEST).clamp_min_(torch.finfo(vectors.dtype).tiny)


def _products(codebook: Tensor, *, is_packed: bool) -> Callable[[Tensor], Tensor]:
    """Vectors ``[N, D]`` to products ``[N, K]`` with codewords, all whole numbers below 2 ** 24."""
    dim = codebook.shape[1]
    if codebook.device.type == "cpu" and _multiplies_bytes() and dim > 1:  # wrong for D = 1
        columns = codebook.to(torch.int8).T
        # The views give a single row its usual stride: by another, which a cut leaves, it is read wrong.
        return lambda vectors: torch._int_mm(vectors.to(torch.int8).flatten().view(-1, dim), columns)
    if is_packed and can_pack(codebook):
        return Packed(codebook, None)
    return partial(fn.linear, weight=codebook)


@lru_cache(maxsize=1)
def _multiplies_bytes() -> bool:
    """Whether products of bytes are fast and exact: without VNNI, oneDNN's sums of pairs may saturate."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))


class _Step(NamedTuple):
    """One stage of a search."""

    parent: Tensor  # [M, W'] the path each path goes on from
    code: Tensor  # [M, W']
    errors: Tensor  # [M, W']
    going: Tensor | None  # which vectors are searched further; None: all


def _searched(vectors: Tensor, stages: Sequence[Fit], width: int, least: Sequence[float] | None) -> Found:
    residual = vectors  # [M * W, D], one path to begin with
    errors = vectors.square().sum(dim=1, keepdim=True)  # [M, W] squared
    first = energy = two_before = before = errors[:, 0]  # the latter two: errors of the best paths
    rows = torch.arange(len(vectors), device=vectors.device)[:, None]
    steps: list[_Step] = []
    for stage, fit in enumerate(stages):
        (n_vectors, n_paths), size = errors.shape, len(fit.codebook)
        n_kept = min(_n_kept(stage / len(stages), width, is_short=least is not None), n_paths * size)
        place = _largest(fit(residual).view(n_vectors, n_paths, size), errors[..., None] / 2, n_kept)
        parent, code = place // size, place % size
        left = residual.index_select(0, (parent + n_paths * rows).flatten())
        residual = left.sub_(fit.codebook.index_select(0, code.flatten()))
        errors = residual.square().sum(dim=1).view(n_vectors, n_kept)
        going = None
        if least is not None:
            best = errors.amin(dim=1)
            is_slow = (two_before - best < least[stage]) & (best < energy / 2)
            going = (~is_slow & (best >= least[stage])).nonzero()[:, 0]
            two_before, before = before, best
        steps.append(_Step(parent, code, errors, going))
        if going is not None and len(going) < n_vectors:
            if not len(going):
                break
            residual = residual.view(n_vectors, -1).index_select(0, going).view(-1, residual.shape[1])
            errors, energy = errors[going], energy[going]
            two_before, before = two_before[going], before[going]
            rows = rows[: len(going)]
    return _traced(steps, first, len(stages))


def _n_kept(progress: float, width: int, *, is_short: bool) -> int:
    """Paths that are kept where ``progress`` of the stages were searched."""
    if progress >= 0.5:
        return -(-width // 2)
    return 2 * width if is_short and progress < WIDE else width


def _traced(steps: Sequence[_Step], first: Tensor, n_stages: int) -> Found:
    """Codes and errors of the best path of each vector, followed back from where its search ended."""
    path = steps[-1].errors.argmin(dim=1, keepdim=True)
    codes, after = [], []
    for number, step in reversed(list(enumerate(steps))):
        if step.going is not None and number + 1 < len(steps):
            path = step.errors.argmin(dim=1, keepdim=True).index_copy_(0, step.going, path)
        codes.append(step.code.gather(1, path)[:, 0])
        after.append(step.errors.gather(1, path)[:, 0])
        path = step.parent.gather(1, path)
    if all(step.going is None for step in steps):  # shapes are known, as recordings need them
        return Found(torch.stack(codes[::-1]), torch.stack([first, *after[::-1]]))
    found = Found(first.new_zeros(n_stages, len(first), dtype=torch.int64), first.repeat(n_stages + 1, 1))
    places = torch.arange(len(first), device=first.device)
    for number, step in enumerate(steps):
        found.codes[number, places] = codes[-1 - number]
        found.errors[number + 1 :, places] = after[-1 - number]
        if step.going is not None:
            places = places[step.going]
    return found


def _largest(scores: Tensor, owed: Tensor, n: int) -> Tensor:
    """Places ``[N, n]`` of the ``n`` largest scores ``[N, W, K]`` less what each path owes, ``[N, W, 1]``.

    As those of ``(scores - owed).flatten(1).topk(n)``, but in any order, and several times as fast for many
    vectors: they are among the ``n`` columns with the largest maxima if each path's scores are laid out as a
    matrix.
    """
    n_vectors, n_paths, size = scores.shape
    n_columns = size // N_ROWS  # of each path
    if n_vectors <= N_FEW or n_paths * n_columns < 2 * n or size % N_ROWS:
        return _best((scores - owed).flatten(1), n)
    maxima = scores.view(n_vectors, n_paths, N_ROWS, n_columns).amax(dim=2).sub_(owed)
    column = _best(maxima.flatten(1), n)
    path = column // n_columns
    rows = n_columns * torch.arange(N_ROWS, device=scores.device)[:, None]
    places = (column + path * (size - n_columns))[:, None] + rows  # [N, rows, n]
    candidates = scores.flatten(1).gather(1, places.flatten(1)).view_as(places)
    candidates.sub_(owed[:, :, 0].gather(1, path)[:, None])
    return places.flatten(1).gather(1, _best(candidates.flatten(1), n))


def _best(values: Tensor, n: int) -> Tensor:
    return values.topk(n, sorted=False).indices
