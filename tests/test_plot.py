"""What is drawn is what was measured."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

import cfpairs
from cfpairs import assess_pairs, evaluate, plot
from cfpairs.errors import DataError
from cfpairs.notebook import html_table
from cfpairs.quality import PairQuality
from cfpairs.workflow import StageResult


@pytest.fixture(scope="module")
def quality() -> PairQuality:
    rng = np.random.default_rng(0)
    n, d = 120, 12
    y, env = np.arange(n) % 2, (np.arange(n) // 2) % 2
    X = rng.normal(size=(n, d)) + 3 * np.outer(y, np.eye(d)[0]) + 5 * np.outer(env, np.eye(d)[1])
    a = rng.normal(size=(60, d)) + 3 * np.outer(np.arange(60) % 2, np.eye(d)[0])
    D = 0.3 * rng.normal(size=(60, d)) - 5 * np.eye(d)[1]
    return assess_pairs(D, X, y, env, a=a, pair_labels=np.arange(60) % 2)


ROWS: list[dict[str, Any]] = [
    {"pair_set": s, "method": m, "selection": rule, "seed": seed, "worst_group": w,
     "worst_group_low": w - 0.1, "worst_group_high": w + 0.05, "r": 1, "average": 0.9}
    for rule, shift in (("pairs", 0.0), ("oracle", 0.1))
    for s, m, w0 in (("edit", "erm", 0.3), ("edit", "ncm", 0.7), (None, "irm", 0.5))
    for seed in (None, 0)
    for w in [w0 + shift]
]  # fmt: skip


def test_spectrum(quality: PairQuality) -> None:
    (axes,) = plot.spectrum(quality).axes
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], quality.singular_values)
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colours[: quality.rank])) == 1 and colours[0] not in colours[quality.rank :]
    (edge,) = axes.lines
    assert edge.get_ydata()[0] == quality.noise_edge
    assert len(plot.spectrum(quality.to_dict(), most=3).axes[0].patches) == 3


def test_tradeoff(quality: PairQuality) -> None:
    (axes,) = plot.tradeoff(quality).axes
    lines = {line.get_label(): line for line in axes.lines}
    drawn = lines["environment"]
    assert drawn.get_xdata().tolist() == [row.r for row in quality.tradeoff]
    np.testing.assert_allclose(drawn.get_ydata(), [row.environment_removed for row in quality.tradeoff])
    np.testing.assert_allclose(
        lines["label, deconfounded"].get_ydata(), [r.label_removed_deconfounded for r in quality.tradeoff]
    )
    chosen = lines[f"recommended r = {quality.recommended_r}"]
    assert set(chosen.get_xdata()) == {quality.recommended_r}
    with pytest.raises(DataError, match="no trade-off"):
        plot.tradeoff(assess_pairs(np.eye(4)))


def test_forecast(quality: PairQuality) -> None:
    (axes,) = plot.forecast(quality).axes
    line, here = axes.lines
    assert line.get_xdata().tolist() == [row.n_pairs for row in quality.forecast]
    np.testing.assert_allclose(line.get_ydata(), [row.misalignment for row in quality.forecast])
    assert (here.get_xdata()[0], here.get_ydata()[0]) == (quality.n_pairs, quality.misalignment)
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(max(row.high for row in quality.forecast))
    with pytest.raises(DataError, match="no forecast"):
        plot.forecast(assess_pairs(np.zeros((3, 4))))


@pytest.mark.parametrize("kind", [list, pa.Table.from_pylist, pd.DataFrame])
def test_worst_group(kind: Any) -> None:
    (axes,) = plot.worst_group(kind(ROWS)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["edit: erm", "irm", "edit: ncm"]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.3, 0.5, 0.7])
    ends = np.array([segment[:, 0] for segment in axes.collections[0].get_segments()])
    np.testing.assert_allclose(ends, [[0.2, 0.35], [0.4, 0.55], [0.6, 0.75]])
    assert axes.get_title() == "settings chosen by pairs"
    oracle = plot.worst_group(kind(ROWS), selection="oracle").axes[0]
    assert "uses test labels" in oracle.get_title() and oracle.patches[0].get_width() == pytest.approx(0.4)


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(DataError, match="expected one of oracle, pairs"):
        plot.worst_group(ROWS, selection="none")
    with pytest.raises(DataError, match="no results"):
        plot.worst_group([{"a": 1}])
    with pytest.raises(DataError, match="no pair quality"):
        plot.spectrum({"rank": 1})


def test_a_notebook_draws_figures_without_pyplot(quality: PairQuality) -> None:
    figure = plot.spectrum(quality)
    assert isinstance(figure, Figure)
    png = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG") and len(png) > 5000
    code = (
        "import sys, cfpairs; assert 'matplotlib' not in sys.modules; p = cfpairs.plot; assert p.spectrum; "
    )
    code += "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "plot" in dir(cfpairs) and cfpairs.plot is plot


def test_tables_for_notebooks(quality: PairQuality) -> None:
    assert html_table([("<i>", "&")], ("<a>",)) == (
        '<table><tr><th scope="col">&lt;a&gt;</th></tr>'
        '<tr><th scope="row">&lt;i&gt;</th><td>&amp;</td></tr></table>'
    )
    assert f">{quality.n_pairs} in {quality.dim} dimensions<" in quality._repr_html_()
    found = evaluate([0, 0, 1, 1], [0, 0, 1, 0], env=[0, 1, 0, 1])._repr_html_()
    assert "worst group 0.000, average 0.750" in found
    assert found.index("label 1, environment 1") < found.index("label 0, environment 0")
    means = [row | {"seed": row["seed"]} for row in ROWS]
    shown = StageResult("probe", True, "probe <done>", ("a & b",), {"results": means})._repr_html_()
    assert "probe &lt;done&gt;" in shown and "a &amp; b" in shown
    assert shown.index("ncm") < shown.index("irm") < shown.index("erm") and "oracle" not in shown
    assert "0.700" in shown and "0.800" not in shown
    assert StageResult("embed", False, "x")._repr_html_().count("<table>") == 1


def test_a_sweep_in_a_notebook() -> None:
    sweep = cfpairs.fit_sweep(
        np.array([[-1.0, -9.0], [1.0, 9.0]]),
        np.array([0, 1]),
        differences=np.array([[0.0, 2.0]]),
        r=[1],
        C=[1.0, 2.0],
    )
    assert '<th scope="row">ncm</th><td>2</td><td>1</td>' in sweep._repr_html_()
