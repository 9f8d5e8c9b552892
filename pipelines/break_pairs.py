"""Break a share of a workspace's pairs in memory and print how well the flags find them.

A third of the broken pairs each: *label*, the b side is that of a pair with another label in the same
environment (a training item's where there is none); *match*, the b side of another pair of the same kind;
*no edit*, the b side is the a side. Nothing on disk changes. Precision and recall are those of the flags that
speak of broken pairs; "ranked first" counts broken pairs among as many at the top of the list. A pair
that has nothing to be swapped with stays whole.
Usage: python pipelines/break_pairs.py -c cfpairs.yaml [--pair-set edit] [--share 0.1] [--seeds 0 1 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper_tables import exit_status, study_parser

from cfpairs import PairQuality
from cfpairs.errors import ConfigError, DataError
from cfpairs.workflow.context import Context, find_config
from cfpairs.workflow.inputs import ProbeInputs, load_inputs, pair_set_names
from cfpairs.workflow.quality import middle_ridge, pair_quality

KINDS = ("label", "match", "no edit")


def broken(
    inputs: ProbeInputs, name: str, share: float, seed: int
) -> tuple[ProbeInputs, dict[str, NDArray[np.int64]]]:
    """The same inputs with some pairs broken, and which rows by the kind of fault.

    Raises
    ------
    DataError
        If none could be broken.
    """
    pairs, train = inputs.pairs[name], inputs.train
    k = len(pairs)
    rng = np.random.default_rng([seed, k])
    rows = np.array_split(rng.permutation(k)[: round(share * k)], len(KINDS))
    b = pairs.b.copy()
    env_b = np.zeros(k, np.int64) if pairs.env_b is None else pairs.env_b
    whole = []
    for row in rows[0]:
        other = np.flatnonzero((pairs.labels != pairs.labels[row]) & (env_b == env_b[row]))
        items = np.flatnonzero((train.y != pairs.labels[row]) & (train.env == env_b[row]))
        if len(other):
            b[row] = pairs.b[rng.choice(other)]
        elif len(items):
            b[row] = train.X[rng.choice(items)]
        else:
            whole.append(row)
    for row in rows[1]:
        alike = (pairs.labels == pairs.labels[row]) & (env_b == env_b[row])
        alike &= pairs.subject_a != pairs.subject_a[row]
        if alike.any():
            b[row] = pairs.b[rng.choice(np.flatnonzero(alike))]
        else:
            whole.append(row)
    b[rows[2]] = pairs.a[rows[2]]
    rows = [np.setdiff1d(part, whole) for part in rows]
    if not sum(map(len, rows)):
        raise DataError(
            f"no pair of {name!r} was broken",
            got=f"a share of {share:g} of {k} usable pairs",
            remedy="raise --share, or build more pairs",
        )
    changed = replace(inputs, pairs={**inputs.pairs, name: replace(pairs, b=b)})
    return changed, dict(zip(KINDS, rows, strict=True))


def ranked(quality: PairQuality) -> list[str]:
    """Pairs with a flag that says that the pair is wrong, the worst first."""
    return list(dict.fromkeys(flag.pair_id for flag in quality.flags if flag.flag != "dominates"))


def score(context: Context, inputs: ProbeInputs, name: str, share: float, seed: int) -> dict[str, Any]:
    """Figures of one seed."""
    changed, rows = broken(inputs, name, share, seed)
    quality = pair_quality(changed, name, seed, middle_ridge(context))
    ids = inputs.kept[name]
    wrong = {ids[row] for part in rows.values() for row in part}
    named = ranked(quality)
    first = set(named[: len(wrong)])
    return {
        "seed": seed,
        "broken": len(wrong),
        "first": len(first & wrong),
        **{kind: f"{len(first & {ids[r] for r in part})} of {len(part)}" for kind, part in rows.items()},
        "precision": len(set(named) & wrong) / max(1, len(named)),
        "recall": len(set(named) & wrong) / len(wrong),
        "level": quality.verdict.level,
    }


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each seed, and how many of the pairs as they are were flagged."""
    parser = study_parser(__doc__)
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("-w", "--workspace", type=Path)
    parser.add_argument("--pair-set", default="edit")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    if not 0 < args.share < 1:
        raise ConfigError("the share of pairs to break cannot be used", got=args.share, expected="0 to 1")
    if min(args.seeds) < 0:
        raise ConfigError("a seed cannot be used", got=min(args.seeds), expected="0 or more")
    context = Context(find_config(args.config, args.workspace)[0])
    (name,) = pair_set_names(context, [args.pair_set])
    inputs = load_inputs(context, [name])
    whole = pair_quality(inputs, name, 0, middle_ridge(context))
    print(f"{name} as it is: {len(ranked(whole))} of {whole.n_pairs} pairs flagged, {whole.verdict.level}\n")
    rows = [score(context, inputs, name, args.share, seed) for seed in args.seeds]
    print("| seed | broken | ranked first | label | match | no edit | precision | recall | verdict |")
    print("|" + "-|" * 9)
    for row in rows:
        print(
            f"| {row['seed']} | {row['broken']} | {row['first']} | "
            + " | ".join(row[kind] for kind in KINDS)
            + f" | {row['precision']:.2f} | {row['recall']:.2f} | {row['level']} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
