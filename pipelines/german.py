"""Credit told without the sex: CausIRL with MMD on the German credit table.

Paper: Chevalley, Bunne, Krause, Bauer (2022), Invariant Causal Mechanisms through Distribution Matching,
table 5 and figure 5.
Data: a CSV file that you give, UCI's `german.data` or any with the columns that the configuration names.
See data_cards/german.md.
Cost, expected result and all settings: configs/german.yaml.
Run: python pipelines/german.py --data german.data --out cfpairs-work/german [--runs 3]
Writes results.csv, figure.svg and figure.png; a run that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fair_tables import Told, run_study

TOLD = Told(weight=1.0, target=80.3, adversary=67.0, common_target=71.0, common_sensitive=69.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_study("german", TOLD, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
