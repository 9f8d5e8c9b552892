"""Rows of a probe run's tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cfpairs.metrics import Evaluation
from cfpairs.probes.sweep import Setting
from cfpairs.selection import Choice

__all__ = ["means_over_seeds", "prediction_table", "result_row"]

_AVERAGED = ("worst_group", "worst_group_low", "worst_group_high", "average", "adjusted")


def means_over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a (pair set, method, rule): means over seeds, the rank that was chosen most often."""
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault((row["pair_set"], row["method"], row["selection"]), []).append(row)
    means = []
    for same in together.values():
        every = [json.loads(row["params"]) for row in same]
        ranks = Counter(row["r"] for row in same)
        r = min(ranks, key=lambda rank: (-ranks[rank], rank))
        of_r = [p for p, row in zip(every, same, strict=True) if row["r"] == r]
        worst = np.array([row["worst_group"] for row in same])
        flips = [row["flip_rate"] for row in same if row["flip_rate"] is not None]
        params = of_r[0] | {
            "score": float(np.mean([p["score"] for p in every])),
            "seeds": [row["seed"] for row in same],
            "r_by_seed": [row["r"] for row in same],
            "C_by_seed": [p["C"] for p in every],
            "worst_group_sd": float(worst.std(ddof=1)) if len(worst) > 1 else 0.0,
        }
        means.append(
            same[0]
            | {key: float(np.mean([row[key] for row in same])) for key in _AVERAGED}
            | {
                "r": r,
                "seed": None,
                "flip_rate": float(np.mean(flips)) if flips else None,
                "seconds": float(np.sum([row["seconds"] for row in same]) / len(same)),
                "params": json.dumps(params),
            }
        )
    return means


def result_row(
    name: str | None,
    setting: Setting,
    rule: str,
    seed: int,
    choice: Choice,
    result: Evaluation,
    *,
    tried: int,
    gradient_norm: float,
    flip_rate: float | None,
    logit_change: float | None,
    n_pairs: int | None,
    seconds: float,
) -> dict[str, Any]:
    """One row of ``RESULTS``: a setting that a rule chose and what it does on test."""
    params = {
        "C": setting.C,
        "score": choice.score,
        "best_score": choice.best_score,
        "standard_error": choice.standard_error,
        "settings_tried": tried,
        "gradient_norm": gradient_norm,
        "logit_change": logit_change,
        "worst_label": result.worst.label,
        "worst_env": result.worst.env,
        "worst_n": result.worst.n,
    }
    return {
        "pair_set": name,
        "method": setting.method,
        "r": setting.r,
        "selection": rule,
        "seed": seed,
        "worst_group": result.worst_group,
        "worst_group_low": result.worst_group_low,
        "worst_group_high": result.worst_group_high,
        "average": result.average,
        "adjusted": result.adjusted,
        "flip_rate": flip_rate,
        "n_pairs": n_pairs,
        "seconds": seconds,
        "params": json.dumps(params),
    }


def prediction_table(
    ids: Sequence[str],
    labels: NDArray[Any],
    predicted: NDArray[Any],
    logits: NDArray[Any],
    name: str | None,
    setting: Setting,
    rule: str,
    seed: int,
) -> pa.Table:
    """Test predictions of one chosen setting, one row an item; ``logits`` is (n, c)."""
    n, c = logits.shape
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(logits).reshape(-1)), c)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "pair_set": pa.array([name] * n, pa.string()),
            "method": pa.array([setting.method] * n, pa.string()),
            "selection": pa.array([rule] * n, pa.string()),
            "seed": pa.array([seed] * n, pa.int64()),
            "r": pa.array([setting.r] * n, pa.int32()),
            "C": pa.array([setting.C] * n, pa.float64()),
            "label": pa.array(labels, pa.int32()),
            "predicted": pa.array(predicted, pa.int32()),
            "logits": values,
        }
    )
