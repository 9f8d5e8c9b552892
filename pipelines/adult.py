"""Income told without the sex: CausIRL with MMD on the Adult table.

Paper: Chevalley, Bunne, Krause, Bauer (2022), Invariant Causal Mechanisms through Distribution Matching,
table 1 and figure 4.
Data: a CSV file that you give, UCI's `adult.data` and `adult.test` or any with the columns that the
configuration names. See data_cards/adult.md.
Cost, expected result and all settings: configs/adult.yaml.
Run: python pipelines/adult.py --data adult.data --test adult.test --out cfpairs-work/adult [--runs 3]
Writes results.csv, figure.svg and figure.png; a run that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fair_tables import Told, run_study

TOLD = Told(weight=None, target=85.0, adversary=69.8, common_target=75.0, common_sensitive=67.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_study("adult", TOLD, __doc__, argv)


if __name__ == "__main__":
    raise SystemExit(main())
