"""Realistic inputs of the report: digits on grass or gravel, three pair sets, two probes, little images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfpairs.report.assess import PairSetInput

LABELS = {0: "digit 0 to 4", 1: "digit 5 to 9"}
ENVS = {0: "grass", 1: "gravel"}
RANKS = (0, 1, 2, 4, 8, 16, 32, 64)
WORST = {  # per pair set, at each of RANKS
    "edit": (0.09, 0.66, 0.69, 0.70, 0.71, 0.70, 0.66, 0.58),
    "nearest": (0.09, 0.21, 0.28, 0.33, 0.35, 0.34, 0.30, 0.22),
    "random": (0.09, 0.12, 0.14, 0.15, 0.14, 0.12, 0.10, 0.08),
}
CHOSEN = {"edit": 4, "nearest": 8, "random": 4}
LEVELS = {
    "edit": (
        "good",
        "the directions are reliable: both halves of the pairs agree, and little of the label goes",
    ),
    "nearest": ("needs_pairs", "the pairs are noisy: more of them would make the directions reliable"),
    "random": ("fix_pairs", "the two images of a pair differ in much more than the environment"),
}
CARD = """# Pairs by editing

Every pair is a training image and a copy whose *background* was replaced.

## How made

| step | what |
|------|------|
| mask | the stroke of the digit |
| paste | another environment's background, seed 0 |

- 240 pairs asked for, 236 kept
- see [the paper](https://example.org/paper?a=1&b=2) for the idea

### Known limits

Edges of strokes are `hard`; a reader may see them.
"""


def picture(path: Path, digit: int, env: int, rng: np.random.Generator) -> None:
    """A digit on coloured texture, 96 by 96 pixels."""
    base = np.array([(70, 120, 50), (135, 130, 125)][env], float)
    grain = rng.normal(0, 1, (24, 24)).repeat(4, 0).repeat(4, 1) * 14 + rng.normal(0, 12, (96, 96))
    pixels = np.clip(base + grain[..., None], 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    font = ImageFont.load_default(size=72)
    ImageDraw.Draw(image).text((48, 46), str(digit), fill=(245, 240, 225), font=font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def advised(kind: str, text: str, **more: int) -> dict[str, Any]:
    """One row of advice."""
    return {"kind": kind, "text": text, "n_pairs": None, "label": None, "env_a": None, "env_b": None} | more


def quality(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """A PairQuality dict with a spectrum of 240 values."""
    spikes = {"edit": 9, "nearest": 6, "random": 0}[name]
    random = rng.normal(size=(240, 1280))
    noise = 0.5 * np.sqrt(np.linalg.eigvalsh(random @ random.T))[::-1]
    values = noise.copy()
    values[:spikes] = float(noise[0]) * np.linspace(3.6, 1.15, spikes) ** 1.3 if spikes else values[:spikes]
    level, text = LEVELS[name]
    strength = {"edit": 1.0, "nearest": 0.55, "random": 0.2}[name]
    return {
        "n_pairs": 236 if name == "edit" else 240,
        "dim": 1280,
        "singular_values": [float(v) for v in values],
        "sigma": 0.5132,
        "noise_edge": float(noise[0]) * 1.03,
        "noise_share": {"edit": 0.41, "nearest": 0.74, "random": 0.97}[name],
        "rank": spikes,
        "rank_interval": [max(spikes - 1, 0), spikes + 2],
        "recommended_r": CHOSEN[name],
        "alignment": [0.99, 0.97, 0.93, 0.88, 0.81][: max(spikes, 1)],
        "misalignment": {"edit": 0.24, "nearest": 0.51, "random": None}[name],
        "split_half": {
            "distance": {"edit": 0.21, "nearest": 0.55, "random": 0.93}[name],
            "cosines": [0.99, 0.97, 0.94, 0.86, 0.7],
        },
        "forecast": [
            {"n_pairs": n, "misalignment": m, "low": m - 0.05, "high": m + 0.05}
            for n, m in ((480, 0.36), (960, 0.26), (1920, 0.18))
        ]
        if name == "nearest"
        else None,
        "tradeoff": [
            {
                "r": r,
                "environment_removed": strength * (1 - 0.06 ** min(r, 1) * 0.85 ** max(r - 1, 0))
                if r
                else 0.0,
                "label_removed": min(0.9, 0.062 * r**0.55) if r else 0.0,
                "label_removed_deconfounded": min(0.9, 0.008 * r**0.75) if r else 0.0,
                "variance_removed": float(np.sum(values[:r] ** 2) / np.sum(values**2)),
            }
            for r in RANKS
        ],
        "flags": [
            {
                "pair_id": f"{name}-007",
                "flag": "duplicate",
                "score": 0.991,
                "reason": "same difference as edit-003",
            },
            {
                "pair_id": f"{name}-011",
                "flag": "outlier",
                "score": 6.2,
                "reason": "far longer than the others",
            },
        ]
        if name == "edit"
        else [],
        "metric": "identity",
        "cells": [
            {"label": y, "env_a": e, "env_b": 1 - e, "n_pairs": n, "n_items": items, "covered": c}
            for y, e, n, items, c in (
                (0, 0, 62, 46, 0.91),
                (0, 1, 60, 874, 0.88),
                (1, 0, 56, 836, 0.9),
                (1, 1, 58, 44, 0.86),
            )
        ]
        if name == "edit"
        else None,
        "verdict": {"level": level, "text": text},
        "advice": {
            "edit": [advised("review", "look at the 2 flagged pairs; one is a copy of another")],
            "nearest": [
                advised("add", "make 960 pairs: the misalignment would fall below .3", n_pairs=960),
                advised(
                    "cover",
                    "Make pairs for label 1 between environments 0 and 1: there is none.",
                    label=1,
                    env_a=0,
                    env_b=1,
                ),
            ],
            "random": [advised("remake", "edit the images instead of joining any two of them")],
        }[name],
        "remarks": [{"about": "missing", "text": "Whether the pairs keep their label was not checked."}]
        if name == "nearest"
        else [{"about": "noise", "text": "The noise is uneven."}],
    }


def pair_rows(name: str, n: int) -> list[dict[str, Any]]:
    """Sound pairs first, then one that was rejected and one that was dropped."""
    rows = []
    for i in range(n):
        status = "rejected" if i == n - 2 else "dropped" if i == n - 1 else "ok"
        env = i % 2
        rows.append(
            {
                "pair_id": f"{name}-{i:03d}",
                "a_id": f"item-{i % 20:02d}",
                "b_id": f"{name}-item-{i % 20:02d}" if status == "ok" else "gone",
                "method": name,
                "label": int(i % 10 >= 5),
                "env_a": env,
                "env_b": 1 - env,
                "score": round(0.95 - 0.01 * i, 3),
                "seed": 0,
                "status": status,
                "reason": {"rejected": "the mask covers no pixel", "dropped": "dropped by hand"}.get(status),
            }
        )
    return rows


def result_rows() -> list[dict[str, Any]]:
    """ERM and NCM for each pair set under three rules, three seeds and their mean."""
    rows = []
    for name, worst in WORST.items():
        for rule in ("pairs", "in-domain", "oracle"):
            for method in ("erm", "ncm"):
                r = 0 if method == "erm" else {"pairs": CHOSEN[name], "in-domain": 1, "oracle": 8}[rule]
                level = worst[RANKS.index(r)]
                for seed in (0, 1, 2, None):
                    value = level + (0.006 * (seed - 1) if seed is not None else 0.0)
                    half = 1.96 * np.sqrt(value * (1 - value) / 480)
                    score = level + (0.02 if rule == "pairs" else 0.25)
                    params = {
                        "C": 1e-4 if method == "ncm" else 1e-2,
                        "score": round(score, 3),
                        "solver": "lbfgs",
                    }
                    rows.append(
                        {
                            "pair_set": name,
                            "method": method,
                            "r": r,
                            "selection": rule,
                            "seed": seed,
                            "worst_group": value,
                            "worst_group_low": value - half,
                            "worst_group_high": value + half,
                            "average": 0.55 + 0.35 * value,
                            "adjusted": 0.93 - 0.1 * value,
                            "flip_rate": 0.42 - 0.5 * value if method == "ncm" else 0.61,
                            "n_pairs": 236 if name == "edit" else 240,
                            "seconds": 0.8,
                            "params": json.dumps(params),
                        }
                    )
    return rows


def curve_rows() -> list[dict[str, Any]]:
    """Test accuracy of NCM at every r."""
    return [
        {
            "pair_set": name,
            "method": "ncm",
            "r": r,
            "C": 1e-4,
            "worst_group": w,
            "worst_group_low": max(0.0, w - 0.04),
            "worst_group_high": w + 0.04,
            "average": 0.55 + 0.35 * w,
        }
        for name, worst in WORST.items()
        for r, w in zip(RANKS, worst, strict=True)
    ]


def grid_rows() -> list[dict[str, Any]]:
    """Every fit: NCM at each r with three strengths of the ridge, one of them not tried, and ERM."""
    rows: list[dict[str, Any]] = [
        {"pair_set": name, "method": "ncm", "r": r, "C": C, "params": "{}", "worst_group": w - loss,
         "average": 0.55 + 0.35 * w}
        for name, worst in WORST.items()
        for r, w in zip(RANKS, worst, strict=True)
        for C, loss in ((1e-6, 0.04), (1e-4, 0.0), (1e-2, 0.02))
        if r > 0 and (r, C) != (64, 1e-2)
    ]  # fmt: skip
    erm = {"pair_set": None, "method": "erm", "r": 0, "params": "{}", "average": 0.58}
    rows += [erm | {"C": C, "worst_group": w} for C, w in ((1e-6, 0.0), (1e-4, 0.05), (1e-2, 0.09))]
    return [*rows, rows[0] | {"params": '{"class_weight": 2.0}', "worst_group": 1.0}]


def comparison_rows() -> list[dict[str, Any]]:
    """The pair sets on equal numbers of pairs."""
    return [
        {
            "name": name, "n_pairs": 236, "draws": 1 if name == "edit" else 3, "level": LEVELS[name][0],
            "recommended_r": float(CHOSEN[name]), "misalignment": off, "environment_removed": 0.9,
            "label_removed_deconfounded": 0.05, "environment_left": 0.8,
            "spread": None if name == "edit" else 0.02, "behind": None if off is None else off - 0.24,
        }
        for name, off in (("edit", 0.24), ("nearest", 0.51), ("random", None))
    ]  # fmt: skip


def group_rows() -> list[dict[str, Any]]:
    """A shortcut that holds for 95 % of train; one validation group is tiny."""
    counts = {"train": (874, 46, 44, 836), "val": (110, 110, 12, 110), "test": (482, 480, 481, 479)}
    return [
        {
            "split": split,
            "label": y,
            "label_name": LABELS[y],
            "env": e,
            "env_name": ENVS[e],
            "n": ns[2 * y + e],
        }
        for split, ns in counts.items()
        for y in LABELS
        for e in ENVS
    ]


def sample(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Keyword arguments of ``assess``; writes 80 little images below `folder`."""
    rng = np.random.default_rng(seed)
    items: dict[str, dict[str, Any]] = {}
    for name in ("", "edit-", "nearest-", "random-"):
        for i in range(20):
            digit, env = i % 10, (i + bool(name)) % 2
            item_id = f"{name}item-{i:02d}"
            path = folder / f"{item_id}.png"
            picture(path, digit if name != "random-" else (digit + 2) % 5 + 5 * (digit >= 5), env, rng)
            y = int(digit >= 5)
            items[item_id] = {
                "item_id": item_id,
                "path": str(path),
                "label": y,
                "label_name": LABELS[y],
                "env": env,
                "env_name": ENVS[env],
            }
    pair_sets = [
        PairSetInput(
            name=name,
            method=name,
            counts={"ok": 236, "rejected": 3, "dropped": 1} if name == "edit" else {"ok": 240},
            quality=quality(name, rng),
            pairs=pair_rows(name, 40)
            if name == "edit"
            else [r for r in pair_rows(name, 40) if r["status"] == "ok"],
            card=CARD if name == "edit" else f"# Pairs by {name}\n\nSame label, other environment.\n",
        )
        for name in WORST
    ]
    return {
        "title": "Digits on photographs",
        "groups": group_rows(),
        "pair_sets": pair_sets,
        "results": result_rows(),
        "curves": curve_rows(),
        "selection": "pairs",
        "grid": grid_rows(),
        "comparison": comparison_rows(),
        "commands": ["cfpairs run -c cfpairs.yaml"],
        "configuration": "seed: 0\n",
        "image_of": lambda item: Path(items[item]["path"]) if item in items else None,
        "item_of": lambda item: items.get(item, {}),
        "data": {
            "preset": "digits",
            "items": 4064,
            "image_size": 128,
            "shortcut": 0.95,
            "sources": ["scikit-learn digits", "scikit-image grass, gravel"],
        },
        "provenance": {
            "command": "cfpairs run -c cfpairs.yaml",
            "seeds": [0, 1, 2],
            "encoder": "lite",
            "weights_sha256": "9f2c1a7be04d5588c3b0a4f19c7e6d2210fab3c4d5e6f708192a3b4c5d6e7f80",
            "preprocessing": {"normalize": "l2", "scale": "sqrt_d", "standardize": "none"},
            "versions": {"cfpairs": "0.1.0", "python": "3.11.2", "numpy": "2.2.0", "torch": "2.6.0"},
            "fingerprint": "3f9a0b12cd4e5f67",
        },
        "gallery": 12,
    }
