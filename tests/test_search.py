"""The search for codes: greedy with one path, exhaustive with enough, better in between.

Shapes: N vectors, D latent width, Q codebooks, K codewords.
"""

import itertools

import pytest
import torch

from telucodec.model import search as module
from telucodec.model.search import N_BLOCK, Fit, Stages, _largest, nearest, search

D = 6


def draw(n_codebooks, size, n_vectors=50, dim=D):
    generator = torch.Generator().manual_seed(n_codebooks)
    codebooks = torch.randn(n_codebooks, size, dim, generator=generator)
    codebooks *= 0.7 ** torch.arange(n_codebooks)[:, None, None]
    return torch.randn(n_vectors, dim, generator=generator), codebooks


def errors(vectors, codebooks, codes):
    """Squared error of each vector, ``[N]``."""
    total = sum(codebook[chosen] for codebook, chosen in zip(codebooks, codes, strict=True))
    return (vectors - total).square().sum(dim=1)


def found(vectors, codebooks, width):
    return search(vectors, [Fit(codebook) for codebook in codebooks], width).codes


def test_one_path_takes_the_nearest_codeword_of_every_stage():
    vectors, codebooks = draw(4, 16)
    residual, n_nearest = vectors, 0
    for codebook, chosen in zip(codebooks, found(vectors, codebooks, 1), strict=True):
        distances = torch.cdist(residual, codebook)
        torch.testing.assert_close(distances[range(50), chosen], distances.amin(dim=1), rtol=0.02, atol=0)
        n_nearest += int((chosen == distances.argmin(dim=1)).sum())
        residual = residual - codebook[chosen]
    assert n_nearest >= 198  # of 200: bytes tell twins apart only so well


@pytest.mark.parametrize("width", [1, 4])
def test_the_errors_are_those_of_the_codes(width):
    vectors, codebooks = draw(5, 128)
    codes, errors = search(vectors, [Fit(codebook) for codebook in codebooks], width)
    left = vectors - torch.stack(
        [torch.zeros_like(vectors), *(c[q] for c, q in zip(codebooks, codes, strict=True))]
    ).cumsum(0)
    torch.testing.assert_close(errors, left.square().sum(dim=2))


def test_bytes_say_nearly_how_far_codewords_are():
    vectors, codebooks = draw(1, 128)
    vectors[1:] *= torch.logspace(-15, 15, 49)[:, None]
    vectors[0] = 0.0
    codebook = codebooks[0] + 100.0  # all far from zero
    exact = torch.cdist((vectors + 100.0).double(), codebook.double()).square() / -2
    far = (vectors + 100.0 - codebook.mean(dim=0)).norm(dim=1)
    off = (Fit(codebook, is_first=True)(vectors + 100.0) - far[:, None] ** 2 / 2 - exact).abs().amax(dim=1)
    allowed = 0.02 * far * codebooks[0].norm(dim=1).max() + 1e-6 * exact.abs().amax(dim=1)
    assert (off < allowed + 1e-3).all()


def test_every_product_of_bytes_gives_the_same_codes(monkeypatch):
    vectors, codebooks = draw(8, 128, n_vectors=300)
    codes = [found(vectors, codebooks, 4)]
    monkeypatch.setattr(module, "_multiplies_bytes", lambda: False)
    codes.append(found(vectors, codebooks, 4))
    packed = [Fit(codebook, is_packed=True) for codebook in codebooks]
    codes.append(search(vectors, packed, 4).codes)
    assert all(torch.equal(codes[0], other) for other in codes)


def test_as_many_paths_as_there_are_sums_find_the_best_of_all():
    vectors, codebooks = draw(3, 8)
    sums = torch.tensor(list(itertools.product(range(8), repeat=3))).T  # [Q, 512]
    best = torch.stack([errors(vector.expand(512, D), codebooks, sums) for vector in vectors]).amin(dim=1)
    torch.testing.assert_close(errors(vectors, codebooks, found(vectors, codebooks, 64)), best)
    assert (errors(vectors, codebooks, found(vectors, codebooks, 1)) > best + 1e-3).any()


@pytest.mark.parametrize("n_codebooks", [8, 16])
def test_more_paths_leave_less_error(n_codebooks):
    vectors, codebooks = draw(n_codebooks, 128, n_vectors=200)
    left = [
        float(errors(vectors, codebooks, found(vectors, codebooks, width)).mean()) for width in (1, 4, 16)
    ]
    assert left == sorted(left, reverse=True)
    assert left[1] < 0.9 * left[0]


@pytest.mark.parametrize("width", [1, 4])
def test_every_vector_is_searched_for_itself(width):
    vectors, codebooks = draw(5, 128, n_vectors=N_BLOCK + 20)
    together = found(vectors, codebooks, width)
    alone = torch.cat([found(vector[None], codebooks, width) for vector in vectors[::5]], dim=1)
    assert torch.equal(together[:, ::5], alone)
    by_column = vectors[:3].T.contiguous().T[:1]  # one row with an odd stride
    assert torch.equal(found(by_column, codebooks, width), together[:, :1])
    assert found(vectors[:0], codebooks, width).shape == (5, 0)


@pytest.mark.parametrize("n_codebooks", [4, 7, 12, 16])
@pytest.mark.parametrize("least", [None, -torch.inf])
def test_later_stages_are_searched_with_fewer_paths(n_codebooks, least):
    vectors, codebooks = draw(n_codebooks, 64)
    sizes = []

    class Counted(Fit):
        def forward(self, vectors):
            sizes.append(len(vectors))
            return super().forward(vectors)

    fits = [Counted(codebook) for codebook in codebooks]
    search(vectors, fits, 4, None if least is None else [least] * n_codebooks)
    n_wide = 0 if least is None else -(-n_codebooks // 6)  # where vectors may end early
    n_usual = -(-n_codebooks // 2) - n_wide
    n_kept = [8] * n_wide + [4] * n_usual + [2] * (n_codebooks - n_wide - n_usual)
    assert sizes == [n * len(vectors) for n in [1, *n_kept[:-1]]]


def limited(vectors, codebooks, least):
    return search(vectors, [Fit(codebook) for codebook in codebooks], 4, least)


def test_a_vector_ends_where_two_stages_take_too_little_off():
    vectors, codebooks = draw(8, 64, n_vectors=200)
    least = [-torch.inf] * 2 + [0.01] * 6
    whole, short = limited(vectors, codebooks, [-torch.inf] * 8), limited(vectors, codebooks, least)
    fall = short.errors[1:] - short.errors[:-1]
    depths = 8 - (fall.flip(0) != 0).int().argmax(dim=0)
    assert depths.min() >= 3
    assert depths.max() == 8
    assert len(depths.unique()) >= 4
    for place, depth in enumerate(depths.tolist()):
        assert not short.codes[depth:, place].any()
        if depth == 8:
            assert torch.equal(short.codes[:, place], whole.codes[:, place])
    assert 0 < (short.errors[-1] - whole.errors[-1]).mean() < 0.01
    left = [
        torch.where(stage < depths, 1.0, 0.0)[:, None] * c[q]
        for stage, (c, q) in enumerate(zip(codebooks, short.codes, strict=True))
    ]
    torch.testing.assert_close(short.errors[-1], (vectors - sum(left)).square().sum(dim=1))


def test_a_vector_that_a_stage_makes_worse_does_not_end():
    vectors, codebooks = draw(8, 64)
    quiet = 0.05 * vectors  # nearer to zero than to any of the first codewords
    whole = limited(quiet, codebooks, [-torch.inf] * 8)
    rises = whole.errors[1] > whole.errors[0]
    assert rises.all()
    found = limited(quiet, codebooks, [-torch.inf] * 2 + [1e-6] * 6)
    assert torch.equal(found.codes, whole.codes)
    worthless = limited(quiet, codebooks, [-torch.inf] * 2 + [100.0] * 6)  # more than all of their errors
    assert not worthless.codes[3:].any()


def test_vectors_that_end_early_are_searched_for_themselves():
    vectors, codebooks = draw(8, 64, n_vectors=60)
    least = [-torch.inf] * 2 + [0.06] * 6
    together = limited(vectors, codebooks, least)
    alone = [limited(vector[None], codebooks, least) for vector in vectors]
    assert torch.equal(together.codes, torch.cat([found.codes for found in alone], dim=1))
    torch.testing.assert_close(together.errors, torch.cat([found.errors for found in alone], dim=1))
    none = limited(vectors, codebooks, [torch.inf] * 8)
    assert not none.codes[1:].any()
    assert (none.errors[1:] == none.errors[1]).all()


def test_fewer_stages_than_codebooks_give_as_many_codes():
    vectors, codebooks = draw(5, 16)
    stages = [Fit(codebook) for codebook in codebooks[:2]]
    assert search(vectors, stages, 4).codes.shape == (2, 50)


@pytest.mark.parametrize("n_paths", [1, 2, 4])
@pytest.mark.parametrize("size", [5, 64, 640, 1024, 1028])
@pytest.mark.parametrize("n", [1, 4])
def test_the_largest_scores_are_found(n_paths, size, n):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(20, n_paths, size, generator=generator)
    owed = torch.randn(20, n_paths, 1, generator=generator)
    scores[:, :, 1] = scores[:, :, 3] = 9.0  # equal ones
    left = (scores - owed).flatten(1)
    places = _largest(scores, owed, n)
    found = left.gather(1, places).sort(dim=1, descending=True).values
    torch.testing.assert_close(found, left.topk(n).values, rtol=0, atol=0)
    assert all(len(set(row)) == n for row in places.tolist())


def test_the_nearest_codeword_is_the_lowest_on_a_tie():
    twins = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0]]), twins).tolist() == [1]
    vectors, codebooks = draw(1, 16)
    together = nearest(vectors.view(5, 10, D), codebooks[0])
    assert torch.equal(together, torch.cdist(vectors, codebooks[0]).argmin(dim=1).view(5, 10))


def rotation(dim, seed=0):
    return torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed)))[0]


def test_axes_that_codewords_do_not_differ_along_are_left_out():
    _, codebooks = draw(3, 256, dim=64)
    codebooks[1:, :, 32:] *= 0.02  # all of the first stage, half of the others
    turned = codebooks @ rotation(64)
    stages = Stages(turned, torch.ones(64))
    assert [fit._n_dims for fit in stages._fits] == [64, 32, 32]


def test_what_is_left_out_hardly_matters():
    vectors, codebooks = draw(6, 256, n_vectors=400, dim=64)
    shape = torch.cat([torch.ones(40), torch.full((24,), 0.05)])
    vectors, codebooks = vectors * shape @ rotation(64), codebooks * shape @ rotation(64)
    whole = search(vectors, [Fit(book) for book in codebooks], 4).errors[-1].mean()
    stages = Stages(codebooks, torch.ones(64))
    assert stages._fits[0]._n_dims == 48
    found = stages.search(vectors, 4)
    assert found.errors[-1].mean() == pytest.approx(whole.item(), rel=2e-3)
    left = vectors - sum(book[code] for book, code in zip(codebooks, found.codes, strict=True))
    torch.testing.assert_close(found.errors[-1], left.square().sum(dim=1))


@pytest.mark.parametrize("codebooks", [torch.zeros(2, 16, 8), torch.full((2, 16, 8), torch.nan)])
def test_codewords_that_are_no_good_are_searched_all_the_same(codebooks):
    found = Stages(codebooks, torch.ones(8)).search(torch.ones(5, 8), 2)
    assert found.codes.shape == (2, 5)
