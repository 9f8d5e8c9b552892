"""Write pipelines/RESULTS.md: what every study says of its paper's figures, from the files that it wrote.

Run: python pipelines/results.py [--work cfpairs-work]
A study that has not been run is listed with the command that runs it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from paper_tables import HEAD, study_parser

from cfpairs.tables import write_bytes

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"

STUDIES = (
    "synthetic-ncm", "synthetic-irm", "synthetic-causirl", "synthetic-pica", "viae-mnist", "colored-mnist",
    "waterbirds-cf", "pacs", "adult", "german", "nonlinear",
)  # fmt: skip


def table_of(file: Path) -> str:
    """The study's comparison as Markdown."""
    with file.open(encoding="utf-8", newline="") as handle:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in csv.reader(handle)]
    lines = [HEAD, ["---"] * len(HEAD), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(name: str, work: Path) -> str:
    """The heading of a study, its command, and its table or that it was not run."""
    script = f"pipelines/{name.replace('-', '_')}.py"
    file = work / name / "comparison.csv"
    found = table_of(file) if file.is_file() else "Not run here."
    return f"## {name}\n\n`{script}`, settings and expected result in `configs/{name}.yaml`\n\n{found}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = study_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("cfpairs-work"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    head = "# Published figures and ours\n\nWritten by `make papers` from what each study measured.\n"
    write_bytes(args.out, "\n".join([head, *(section(name, args.work) for name in STUDIES)]).encode())
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
