"""Items that a pair set made, as training items."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from cfpairs.config import parse_config
from cfpairs.errors import WorkspaceError
from cfpairs.tables import PAIRS, load_manifest, read_table
from cfpairs.vectors import write_vectors
from cfpairs.workflow import Context, build_pairs
from cfpairs.workflow.context import training_items
from cfpairs.workflow.embeddings import encoder_id
from cfpairs.workflow.inputs import pairs_at_hand
from cfpairs.workflow.manifest import make_manifest
from cfpairs.workflow.pairs import pairs_state
from cfpairs.workflow.probing import run_spec
from tests.dataset_fakes import fake_waterbirds

COUNTS = {
    (0, 0, 0): 12,
    (0, 0, 1): 3,
    (0, 1, 0): 2,
    (0, 1, 1): 10,
    **{(2, y, e): 1 for y in (0, 1) for e in (0, 1)},
}


def context(tmp_path: Path, join: bool) -> Context:
    root = tmp_path / "data"
    if not root.exists():
        fake_waterbirds(root, COUNTS, size=48)
    checks = {"embedding": False}
    return Context(
        parse_config(
            {
                "workspace": str(tmp_path / "work"),
                "data": {
                    "preset": "waterbirds",
                    "root": str(root),
                    "options": {"variant": "counterfactual"},
                    "train_with": ["edit"] if join else [],
                },
                "pairs": [
                    {"method": "edit", "pairs": 5, "options": {"choose": "minority", "checks": checks}},
                    {"method": "random", "pairs": 4},
                ],
            }
        )
    )


def test_made_items_join_and_let_other_builders_pair(tmp_path: Path) -> None:
    here = context(tmp_path, join=True)
    edit, random = here.config.pairs
    build_pairs(here, edit)
    manifest = load_manifest(here.workspace)
    train = training_items(here, manifest)
    assert len(train) == 22 + 5 and set(train["split"].to_pylist()) == {"train"}
    assert len(training_items(context(tmp_path, join=False), manifest)) == 22
    made = build_pairs(here, random)
    assert made.data["counts"] == {"ok": 4}
    assert pairs_state(here, random)[0] == "done"

    edited = manifest.filter(pc.equal(manifest["pair_set"], "edit"))["item_id"].to_pylist()
    table = here.workspace.pairs("random")

    rows = read_table(table, PAIRS)
    sides = set(rows["a_id"].to_pylist()) | set(rows["b_id"].to_pylist())
    assert sides & set(edited), "in the counterfactual variant only edits stand on the other background"

    build_pairs(here, edit.model_copy(update={"pairs": 4}))
    assert pairs_state(here, random)[0] == "stale"


def test_control_items_are_measured_with_and_never_trained_on(tmp_path: Path) -> None:
    here = context(tmp_path, join=True)
    edit = here.config.pairs[0]
    made = build_pairs(here, edit)
    manifest = load_manifest(here.workspace)
    controls = manifest.filter(pc.equal(manifest["origin"], "control"))
    assert made.data["control"] == len(controls) > 0 and "control pairs" in made.summary
    assert not set(controls["item_id"].to_pylist()) & set(
        training_items(here, manifest)["item_id"].to_pylist()
    )
    fewer = edit.model_copy(update={"options": edit.options | {"control": 2}})
    assert pairs_state(here, edit)[0] == "done" and pairs_state(here, fewer)[0] == "stale"
    assert build_pairs(here, fewer).data["control"] == 2

    ids = manifest["item_id"].to_pylist()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(ids), 4)).astype(np.float32)
    part = here.workspace.embeddings(encoder_id(here)) / "part-00000.parquet"
    write_vectors(part, ids, vectors, ["x"] * len(ids), {})
    given = pairs_at_hand(here, "edit")
    assert given is not None and given["control"].shape == (2, 4)
    kept = load_manifest(here.workspace)
    own = kept.filter(pc.equal(kept["origin"], "control")).to_pylist()
    lengths = np.linalg.norm(vectors, axis=1)
    unit = {item: vector / length for item, vector, length in zip(ids, vectors, lengths, strict=True)}
    want = {tuple(np.round(unit[row["parent_id"]] - unit[row["item_id"]], 4)) for row in own}
    scale = np.linalg.norm(given["control"], axis=1) / [
        np.linalg.norm(unit[row["parent_id"]] - unit[row["item_id"]])
        for row in sorted(own, key=lambda row: (row["parent_id"], row["item_id"]))
    ]
    assert scale == pytest.approx(scale[0]) and len(want) == 2


def test_a_run_depends_on_what_was_embedded(tmp_path: Path) -> None:
    here = context(tmp_path, join=False)
    make_manifest(here)
    ids = load_manifest(here.workspace)["item_id"].to_pylist()
    part = here.workspace.embeddings(encoder_id(here)) / "part-00000.parquet"
    digests = []
    for contents in (["x"] * len(ids), ["y"] + ["x"] * (len(ids) - 1)):
        write_vectors(part, ids, np.zeros((len(ids), 2), np.float32), contents, {})
        digests.append(run_spec(here, [])["contents"])
    assert digests[0] != digests[1]


def test_a_pair_set_that_is_not_there_cannot_join(tmp_path: Path) -> None:
    here = context(tmp_path, join=True)

    make_manifest(here)
    with pytest.raises(WorkspaceError, match="from pair set 'edit', which is not there"):
        run_spec(here, [])
