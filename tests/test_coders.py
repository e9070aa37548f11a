"""Coders and rates are found beside the weights, or refused by name."""

import json

import pytest

from telucodec.coders import RATES, best_entropy, build_coder, cumulative_kbps, price_of, stages_within
from telucodec.errors import BitstreamError, ConfigError, ModelError
from telucodec.prior.tables import TABLES


def test_tables_beside_the_weights_make_static_the_best(tmp_path):
    assert best_entropy(None) == best_entropy(tmp_path) == "none"
    (tmp_path / TABLES).touch()
    assert best_entropy(tmp_path) == "static"


def test_a_rate_that_was_measured_makes_variable_depth_the_best(tmp_path):
    (tmp_path / TABLES).touch()
    (tmp_path / RATES).write_text(json.dumps({"kbps": [0.3], "prices": [[4.0, 1.0], [1.0, 2.0]]}))
    assert best_entropy(tmp_path, 1.5) == "variable"
    assert best_entropy(tmp_path, 0.9) == best_entropy(tmp_path) == "static"


def test_a_price_between_two_rates_is_interpolated_by_their_logarithms(tmp_path):
    (tmp_path / RATES).write_text(json.dumps({"kbps": [0.3], "prices": [[4.0, 1.0], [1.0, 4.0]]}))
    assert [price_of(kbps, tmp_path) for kbps in (0.5, 1.0, 2.0, 9.0)] == pytest.approx([4.0, 4.0, 2.0, 1.0])


def test_rates_without_prices_are_refused_for_variable_depth(tmp_path):
    (tmp_path / RATES).write_text(json.dumps({"kbps": [0.3]}))
    with pytest.raises(ModelError, match="no prices; fit the tables again"):
        price_of(1.0, tmp_path)


def test_static_coding_without_tables_says_how_to_get_them(tmp_path):
    with pytest.raises(ModelError, match=r"no entropy\.npz .* --entropy none, or fit tables"):
        build_coder(1, 10, tmp_path)


def test_an_unknown_mode_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(
        BitstreamError, match=r"entropy mode 2 is not in this build; expected one of 0 \(none\)"
    ):
        build_coder(2, 10, tmp_path)


def test_measured_rates_count_for_static_coding_only(tmp_path):
    (tmp_path / RATES).write_text(json.dumps({"kbps": [0.3, 0.7, 1.1]}))
    assert cumulative_kbps("static", 0.5, 2, tmp_path) == [0.3, 0.7]
    assert cumulative_kbps("none", 0.5, 3, tmp_path) == [0.5, 1.0, 1.5]
    assert cumulative_kbps("static", 0.5, 2, None) == [0.5, 1.0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kbps": ["a"]}', '{"kbps": [0.3]}'])
def test_damaged_rates_are_refused(tmp_path, text):
    (tmp_path / RATES).write_text(text)
    with pytest.raises(ModelError, match="fit the tables again"):
        cumulative_kbps("static", 0.5, 2, tmp_path)


def test_the_most_stages_that_fit_are_taken():
    assert [stages_within(kbps, [0.3, 0.7, 1.1]) for kbps in (0.3, 0.69, 0.7, 9.0)] == [1, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"0.2 kbps is less than one stage; expected 0\.3 to 1\.1 kbps"):
        stages_within(0.2, [0.3, 0.7, 1.1])
