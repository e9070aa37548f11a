"""The tables that people read: made from stored figures, of the weights that are shipped, by a command."""

import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from telucodec.errors import TelucodecError
from telucodec.evaluate.report import Row, to_json_lines

ROOT = Path(__file__).parents[1]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, plot = benchmark("quality_table"), benchmark("loss_plot")


def make_row(system, value, **changes):
    fields = {"clip": "a.wav", "folder": "te", "seconds": 2.0, "n_codebooks": 12, "kbps_wanted": 6.0}
    fields |= {"kbps": 6.2, "payload_kbps": 6.0, "missing": {}, "encode_s": 0.01, "decode_s": 0.02}
    return Row(**fields | {"metrics": {"pesq_wb": value}, "system": system} | changes)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda path: path.parent.name)
def test_the_tables_of_a_page_are_those_of_the_stored_figures(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table: quality -->" in text
    assert tables.render(text, *tables.read_figures()) == text, "run `make tables`"


def test_the_figures_are_those_of_the_shipped_weights():
    ours, _ = tables.read_figures()
    assert ours["model_id"] == tables.shipped_model_id(), (
        "measure the new weights: see benchmarks/quality_table.py"
    )


def test_the_stored_anchors_say_where_they_come_from_and_cover_the_clips_of_the_figures():
    ours, others = tables.read_figures()
    assert len(others["origin"]) > 20
    counts = {group["n_clips"] for group in ours["groups"] + others["groups"] if group["by"] == "all"}
    assert len(counts) == 1


def test_a_block_is_rewritten_and_the_rest_is_left_alone():
    ours = tables.store(
        [make_row("telucodec 6", 2.5), make_row("telucodec 6", 2.7, folder="en", clip="b.wav")]
    )
    others = tables.store([make_row("opus 8", 3.0, n_codebooks=0)])
    text = "before\n<!-- table: quality -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    filled = tables.render(text, ours, others)
    assert filled.startswith("before\n<!-- table: quality -->\n| codec | kbps | PESQ-WB |\n")
    assert filled.endswith("<!-- end -->\nafter <!-- end -->\n")
    assert "| telucodec 6 | 6.00 | 2.60 [2.50, 2.70] |\n| opus 8 | 6.00 | 3.00 |\n" in filled
    assert tables.render(filled, ours, others) == filled
    folders = tables.render("<!-- table: folder telucodec 6 -->\n<!-- end -->", ours, others)
    assert "| en (1) | 6.00 | 2.70 |\n| te (1) | 6.00 | 2.50 |" in folders
    with pytest.raises(TelucodecError, match="no figures are stored for the table 'folder opus 9'"):
        tables.render("<!-- table: folder opus 9 -->\n<!-- end -->", ours, others)


def test_figures_of_other_weights_are_not_stored():
    assert tables.model_id_of([make_row("telucodec 6", 2.5, model_id=tables.shipped_model_id())])
    with pytest.raises(TelucodecError, match=r"measured with the weights 0123; .* run eval again"):
        tables.model_id_of([make_row("telucodec 6", 2.5, model_id="0123")])


def test_the_command_stores_figures_and_anchors_and_rewrites_the_pages(tmp_path, monkeypatch):
    rows = [make_row("telucodec 6", 2.5, model_id=tables.shipped_model_id())]
    (tmp_path / "rows.jsonl").write_text(to_json_lines([*rows, make_row("opus 8", 9.0, n_codebooks=0)]))
    (tmp_path / "anchors.csv").write_text("codec,clip,kbps,pesq,visqol\nlyra-v2@3.2,a,3.2,2.0,3.1\n")
    page = tmp_path / "README.md"
    page.write_text("<!-- table: quality -->\n<!-- end -->\n")
    monkeypatch.setattr(tables, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(tables, "ANCHORS", tmp_path / "anchors.json")
    monkeypatch.setattr(tables, "PAGES", (page,))
    options = ["--rows", tmp_path / "rows.jsonl", "--anchors", tmp_path / "anchors.csv", "--origin", "a test"]
    monkeypatch.setattr(sys, "argv", ["quality_table.py", *map(str, options)])
    tables.main()
    assert "| telucodec 6 | 6.00 | 2.50 |\n| lyra-v2 3.2 | 3.20 | 2.00 |\n" in page.read_text()
    stored = json.loads((tmp_path / "anchors.json").read_text())
    assert stored["origin"] == "a test"
    assert stored["groups"][0]["figures"]["visqol"][0] == 3.1


def test_the_drawing_of_losses_places_better_figures_higher():
    rows = [
        {"loss": loss, "method": method, "pesq_wb": 2.5 - loss * fall, "stoi": 0.9 - loss * fall}
        for method, fall in (("concealment", 1.0), ("repeat last", 2.0), ("silence", 4.0))
        for loss in (0.0, 0.1)
    ]
    root = ElementTree.fromstring(plot.drawing(rows))
    lines = [line.get("points").split() for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2 * 3
    ends = [float(points[-1].split(",")[1]) for points in lines]  # y grows downward
    assert ends[0] < ends[1] < ends[2]
    assert ends[3] < ends[4] < ends[5]
    assert len({points[0] for points in lines[:3]}) == 1
