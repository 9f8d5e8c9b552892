"""The study of fine-tuned networks on a few tiny images: the constraint, resuming, wrong input."""

from __future__ import annotations

import csv
from pathlib import Path

import finetuning
import numpy as np
import pytest
import torch
import workspace_images
from fakes import fake_workspace
from torch import nn
from torchvision.models.resnet import BasicBlock

from cfpairs.tables import MANIFEST, PAIRS, load_manifest, make_table, write_table
from cfpairs.workspace import Workspace
from pipelines import nonlinear

CHANGES = {
    "backbone": "tiny", "side": 32, "latent": 8, "epochs": 2, "batch": 4, "pair_batch": 4, "rate": 0.01,
    "weight": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """One more residual network, of one block."""
    real = finetuning._residual

    def build(name, weights):
        if name != "tiny" or weights is not None:
            return real(name, weights)
        stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        return nn.Sequential(stem, BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8

    monkeypatch.setattr(finetuning, "_residual", build)


def small_workspace(root: Path) -> Workspace:
    """Eight training items, and four pairs of bars of one label in two environments."""
    counts = {(split, y, e): 2 for split in ("train", "val", "test") for y in (0, 1) for e in (0, 1)}
    workspace = fake_workspace(root, counts)
    sides = [(0, 2), (1, 3), (4, 6), (5, 7)]
    rows = [
        {
            "pair_id": str(at), "a_id": f"bar-train-{a:04d}", "b_id": f"bar-train-{b:04d}",
            "method": "nearest", "label": at // 2,
            "env_a": 0, "env_b": 1, "score": 1.0, "seed": 0, "status": "ok",
        }
        for at, (a, b) in enumerate(sides)
    ]  # fmt: skip
    write_table(workspace.pairs("own"), make_table(rows, PAIRS), PAIRS)
    return workspace


def write_config(path: Path, **changes: object) -> Path:
    lines = [line for line in nonlinear.CONFIG.read_text().splitlines() if not line.startswith("#")]
    found = dict(line.split("#")[0].split(": ", 1) for line in lines if line)
    found |= {name: str(value) for name, value in {**CHANGES, "pair_set": "own", **changes}.items()}
    path.write_text("\n".join(f"{name}: {value}" for name, value in found.items()))
    return path


def trained(world: workspace_images.World, method: str, weight: float, epochs: int = 8) -> finetuning.Run:
    settings = finetuning.Settings(
        backbone="tiny", weights=None, latent=8, batch=4, pair_batch=4, weight=weight, irm_weight=100.0,
        group_rate=0.01, rate=0.01, momentum=0.9, decay=0.0001, amp=False,
    )  # fmt: skip
    run = finetuning.Run(world, settings, finetuning.METHODS[method], 0, torch.device("cpu"))
    for _ in range(epochs):
        run.epoch()
    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workspace = small_workspace(tmp_path_factory.mktemp("world"))
    return workspace_images.read_world(workspace, "own", 32, edits_in_training=False)


def test_without_weight_the_constraint_changes_nothing_and_with_it_pairs_come_closer(world):
    free, idle, held = (trained(world, name, w) for name, w in (("erm", 0.0), ("ncm", 0.0), ("ncm", 10.0)))
    for own, other in zip(
        free.network.state_dict().values(), idle.network.state_dict().values(), strict=True
    ):
        if own.is_floating_point():
            torch.testing.assert_close(own, other, rtol=0, atol=1e-6)
    assert held.history[-1]["pair_distance"] < 0.5 * free.history[-1]["pair_distance"]


def test_groups_that_fare_badly_gain_weight(world):
    objective = finetuning.Objective(
        "groupdro", world.train, trained(world, "erm", 0.0, 0).settings, torch.device("cpu")
    )
    group = torch.from_numpy(world.train.group)
    logits = torch.zeros(8, 2)
    logits[:, 0] = 3.0
    y, env = torch.from_numpy(world.train.y), torch.from_numpy(world.train.env)
    for _ in range(5):
        objective(logits, y, env, group)
    wrong = torch.bincount(group, weights=(y == 1).double()) > 0
    assert objective.shares[wrong].min() > objective.shares[~wrong].max()
    weighted = finetuning.Objective("upweight", world.train, objective.settings, torch.device("cpu"))
    plain = finetuning.Objective("mean", world.train, objective.settings, torch.device("cpu"))
    assert weighted(logits, y, env, group) == pytest.approx(float(plain(logits, y, env, group)))


def test_the_study_runs_is_taken_up_and_is_not_run_twice(tmp_path, capsys, monkeypatch):
    workspace, config, out = (
        small_workspace(tmp_path / "w"),
        write_config(tmp_path / "c.yaml"),
        tmp_path / "out",
    )
    given = [
        "--workspace",
        str(workspace.root),
        "--config",
        str(config),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    write_config(config, methods="[erm, ncm]")
    assert nonlinear.main([*given, "--epochs", "1"]) == 0
    assert nonlinear.main(given) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [(row["method"], row["epoch"]) for row in rows] == [
        ("erm", "1"),
        ("erm", "2"),
        ("ncm", "1"),
        ("ncm", "2"),
    ]
    world = workspace_images.read_world(workspace, "own", 32, edits_in_training=False)
    straight = trained(world, "ncm", 10.0, 2).history[-1]
    assert float(rows[-1]["pair_distance"]) == pytest.approx(straight["pair_distance"], abs=2e-6)
    said = capsys.readouterr()
    assert "w, 8 train, 8 test images, 4 pairs, tiny" in said.out and "+10.5 points" in said.out
    assert said.err.count("epoch 1 of 1") == said.err.count("epoch 2 of 2") == 2
    monkeypatch.setattr(finetuning.Run, "epoch", None)
    assert nonlinear.main(given) == 0
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (out / name).stat().st_size > 100


def test_edited_sides_are_training_items_where_asked(tmp_path):
    workspace = small_workspace(tmp_path)
    items = load_manifest(workspace).to_pylist()
    items[2]["origin"] = "edit"  # the second side of the first pair
    write_table(workspace.manifest, make_table(items, MANIFEST), MANIFEST)
    world = workspace_images.read_world(workspace, "own", 16, edits_in_training=False)
    assert world.train.pixels.shape == (7, 3, 16, 16) and len(world.first) == 4
    np.testing.assert_array_equal(world.train.group, [0, 0, 1, 2, 2, 3, 3])
    world = workspace_images.read_world(workspace, "own", 16, edits_in_training=True)
    assert world.train.pixels.shape == (8, 3, 16, 16) and len(world.first) == 4
    broken = workspace.root / "data/images/bar-train-0000.png"
    broken.write_bytes(b"no image")
    world = workspace_images.read_world(workspace, "own", 16, edits_in_training=True)
    assert len(world.train.y) == 7 and len(world.first) == 3
    np.testing.assert_array_equal(world.train.group, [0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize(
    ("changes", "more", "expected"),
    [
        ({"backbone": "no-such"}, [], "no such backbone"),
        ({"methods": "[erm, magic]"}, [], "no such method: got magic"),
        ({"pair_set": "none"}, [], "none"),
        ({"side": 0}, [], "a setting of the study cannot be used: side"),
        ({"backbone": "resnet18"}, ["--weights", "nowhere.pth"], "nowhere.pth"),
        ({"backbone": "lite"}, ["--weights", "nowhere.pth"], "brings its weights"),
        ({}, ["--workspace", "nowhere"], "nowhere"),
        ({}, ["--epochs", "0"], "epochs"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, changes, more, expected):
    config = write_config(tmp_path / "c.yaml", **changes)
    given = ["--workspace", str(small_workspace(tmp_path / "w").root), "--config", str(config)]
    assert nonlinear.main([*given, "--out", str(tmp_path / "out"), "--device", "cpu", *more]) == 1
    said = capsys.readouterr()
    assert not said.out and len(said.err.strip().splitlines()) == 1 and expected in said.err


def test_a_weight_file_of_another_network_is_one_line(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(finetuning.CfpairsError, match="does not hold the weights of resnet18"):
        finetuning.Network("resnet18", tmp_path / "w.safetensors", 2, None)
