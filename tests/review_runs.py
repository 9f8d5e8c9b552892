"""A small project whose pairs can be reviewed: given vectors, tiny images, names that HTML would read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from fakes import png

from cfpairs.config import read_config
from cfpairs.tables import PAIRS, read_table
from cfpairs.workflow import Context, build_pairs, embed

LABELS = ("<script>alert(1)</script>", 'be"nign')
SITES = ("north & south", "<b>site</b>")
DIM = 8
GIVEN = ((8, 2), (20, 14), (9, 3), (13, 7), (32, 26), (21, 15))
"""Items of the pairs of ``again``: the fifth copies the first, the last shows no change."""


def project(
    root: Path, *, images: bool = True, n: int = 72, pairs: int = 30, embedded: bool = True
) -> Context:
    """Items, vectors and the pair sets ``random`` and ``again``, all on disk below `root`.

    Some items are far out, and of the six pairs of ``again``, which were given, one copies another and one
    shows no change: these are flagged.
    """
    rng = np.random.default_rng(0)
    data = root / "data"
    data.mkdir(parents=True)
    label, env = np.arange(n) % 2, (np.arange(n) // 2) % 2
    vectors = rng.normal(size=(n, DIM)) * 0.3
    vectors[:, 0] += 2 * (2 * label - 1)
    vectors[:, 1] += 4 * (2 * env - 1)
    vectors[6:26:6] += 9 * rng.normal(size=(4, DIM))
    vectors[[32, 26]] = vectors[[8, 2]]
    vectors[15] = vectors[21] + 1e-3
    np.save(data / "embeddings.npy", vectors.astype(np.float32))
    ids = [f"s{i:03d}<&\"'?/.." for i in range(n)]
    with (root / "given.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *((ids[a], ids[b]) for a, b in GIVEN)])
    with (data / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "site", "split", *(["path"] if images else [])])
        for i in range(n):
            name = f"img {i} & '<i>'.png"
            split = "test" if i % 6 > 3 else "train"
            more = [name] if images else []
            rows.writerow([ids[i], LABELS[label[i]], SITES[env[i]], split, *more])
            if images:
                pixels = np.full((12, 12, 3), (40 + 150 * env[i], 90, 60), np.uint8)
                pixels[3:9, 3:9] = 20 + i
                (data / name).write_bytes(png(pixels))
    settings = {
        "workspace": "work",
        "data": {"preset": "table", "root": "data", "options": {"embeddings": "embeddings.npy"}},
        "encoder": {"spec": "given"},
        "pairs": [
            {"method": "random", "pairs": pairs},
            {"method": "import", "name": "again", "from": "given.csv"},
        ],
        "probe": {"r": "1", "C": [1.0], "seeds": [0], "folds": 2, "selection": ["pairs"]},
    }
    (root / "cfpairs.yaml").write_text(yaml.safe_dump(settings))
    context = Context(read_config(root / "cfpairs.yaml"))
    if embedded:
        embed(context)
    for pair in context.config.pairs:
        build_pairs(context, pair)
    return context


def said(root: Path, name: str = "random") -> dict[str, tuple[str, str | None, str | None]]:
    """Status, decision and note of every pair, as any other command reads them."""
    table: pa.Table = read_table(root / "work" / "pairs" / name / "pairs.parquet", PAIRS)
    return {
        row["pair_id"]: (row["status"], row.get("decision"), row.get("note")) for row in table.to_pylist()
    }


class Running:
    """``cfpairs review`` as a process of its own."""

    def __init__(self, root: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cfpairs", "review", "--no-open", "--json", *args],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.url = str(json.loads(line)["url"])

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.end("kill")

    def end(self, how: str) -> tuple[int, str]:
        """``kill``, ``terminate`` or ``interrupt`` it: exit status and what it said on standard error."""
        if self.process.poll() is None:
            {"kill": self.process.kill, "terminate": self.process.terminate}.get(
                how, lambda: self.process.send_signal(2)
            )()
        err = self.process.communicate(timeout=60)[1]
        return self.process.returncode, err
