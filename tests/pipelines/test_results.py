"""The page of all studies is made of their files alone."""

from __future__ import annotations

from pathlib import Path

from pipelines import results


def test_what_was_run_stands_in_the_page_and_the_rest_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "synthetic-pica"
    folder.mkdir(parents=True)
    (folder / "comparison.csv").write_text('measure,paper,ours,data used\n"ratio, held out",1,1.02,a|b\n')
    assert results.main(["--work", str(tmp_path / "work"), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "| ratio, held out | 1 | 1.02 | a\\|b |" in page
    assert page.count("Not run here.") == len(results.STUDIES) - 1
    root = Path(__file__).parents[2]
    for name in results.STUDIES:
        assert (root / f"configs/{name}.yaml").is_file()
        assert (root / f"pipelines/{name.replace('-', '_')}.py").is_file()
