"""What the studies that draw their own data share: their command, and the sizes of a causal model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paper_tables import config_of, exit_status, finish, show, study_parser
from pydantic import PositiveInt

from cfpairs.config import Strict


class SpuriousBlock(Strict):
    """Settings of a study of embeddings with a block of spurious dimensions, a causal model a seed."""

    seeds: PositiveInt
    dim: PositiveInt
    spurious: PositiveInt
    rows: PositiveInt
    test_rows: PositiveInt


class Outcome(NamedTuple):
    """What a simulated study found: ``paper | ours | data used``, files, and tables to print as well."""

    lines: Sequence[Sequence[str]]
    files: Mapping[str, bytes]
    tables: Sequence[Sequence[Sequence[str]]] = ()


@exit_status
def run_simulated(
    name: str,
    description: str | None,
    work: Callable[[Path, dict[str, Any]], Outcome],
    argv: Sequence[str] | None,
    *,
    repeats: str = "seeds",
    quick: Mapping[str, Any] | None = None,
) -> None:
    """The command of a study that draws its own data; returns the exit status.

    Parameters
    ----------
    name : str
        Of the study, with hyphens: of its configuration and of the folder of its files.
    description : str or None
    work : callable
        The configuration file and settings that replace its own -> what was found.
    argv : sequence of str or None
    repeats : str
        The setting that counts repetitions, and its flag.
    quick : mapping, optional
        Settings of ``--quick``.
    """
    parser = study_parser(description)
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work") / name)
    parser.add_argument(
        f"--{repeats}", type=int, dest="repeats", help="how many; the configuration's by default"
    )
    if quick is not None:
        parser.add_argument(
            "--quick", action="store_true", help=f"one of the {repeats}, fewer rows and points"
        )
    parser.add_argument("--config", type=Path, default=config_of(name))
    args = parser.parse_args(argv)
    changes = dict(quick or {}) if getattr(args, "quick", False) else {}
    if args.repeats is not None:
        changes[repeats] = args.repeats
    found = work(args.config, changes)
    finish(args.out, found.lines, found.files)
    for table in found.tables:
        show(table)
