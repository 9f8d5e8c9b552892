"""Checks of edits: what is measured, what is held against which limit, and that good edits pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes import fake_manifest

from cfpairs.config import parse_options
from cfpairs.errors import ConfigError
from cfpairs.pairs.cells import TrainItems
from cfpairs.pairs.edit.base import EditPlan, Mask
from cfpairs.pairs.edit.checks import (
    BACKGROUND,
    DISTANCE,
    ENVIRONMENT,
    FOREGROUND,
    LABEL,
    TEXT,
    Checked,
    CheckOptions,
    Checks,
    check_section,
)
from cfpairs.vectors import Embeddings
from cfpairs.workspace import Workspace

DIM = 12
COUNTS = {("train", 0, 0): 60, ("train", 0, 1): 12, ("train", 1, 0): 12, ("train", 1, 1): 60}


class PlantedJudge:
    """Vectors with a coordinate for the label, a larger one for the environment, and noise.

    `encode` gives the vector that an image's first pixels name: what the edit is in truth.
    """

    encoder_id = "planted"

    def __init__(self, items: TrainItems, *, texts: bool = False) -> None:
        self.items, self.texts = items, texts
        rng = np.random.default_rng(0)
        self.noise = 0.4 * rng.normal(size=(len(items.ids), DIM))
        self.vectors = self.at(items.label, items.env) + self.noise
        self.asked: list[Sequence[str]] = []

    def at(self, label: object, env: object) -> np.ndarray:
        found = np.zeros((np.size(label), DIM))
        found[:, 0] = 2 * np.asarray(label) - 1
        found[:, 1] = 3 * (2 * np.asarray(env) - 1)
        return found

    def training(self) -> Embeddings:
        return Embeddings(list(self.items.ids), self.vectors)

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        row, label, env = (np.array([int(image[0, 0, c]) for image in images]) for c in range(3))
        return (self.at(label, env) + self.noise[row]).astype(np.float32)

    def encode_text(self, prompts: Sequence[str]) -> np.ndarray | None:
        if not self.texts:
            return None
        return np.array([np.eye(DIM)[1] * (1 if "brown" in p else -1) for p in prompts], np.float32)

    def label_logits(self, vectors: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        assert len(vectors) == len(sources)
        self.asked.append(sources)
        return np.column_stack([-vectors[:, 0], vectors[:, 0]])


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> TrainItems:
    return TrainItems.of(fake_manifest(Workspace(tmp_path_factory.mktemp("checks")), COUNTS, size=16))


def plan_of(row: int, mask: bool = True) -> EditPlan:
    source = np.full((16, 16, 3), 200, np.uint8)
    source[0, 0] = (row, 0, 0)
    alpha = np.zeros((16, 16), np.float32)
    alpha[4:12, 4:12] = 1
    alpha[3, 4:12] = 0.5
    return EditPlan(source, (), Mask(alpha, "", "column") if mask else None)


def edit_of(plan: EditPlan, row: int, label: int, env: int) -> np.ndarray:
    """Another background; the first pixel names what the judge shall see."""
    assert plan.mask is None or plan.mask.alpha[0, 0] == 0
    edited = np.full_like(plan.source, 90)
    edited[4:12, 4:12] = plan.source[4:12, 4:12]
    edited[0, 0] = (row, label, env)
    return edited


def judged(
    items: TrainItems,
    kind: str = "good",
    *,
    judge: PlantedJudge | None = None,
    **options: object,
) -> list[Checked]:
    """Check an edit of every training item."""
    sources = items.table.to_pylist()
    plans = [plan_of(row) for row in range(len(sources))]
    targets = [1 - s["env"] for s in sources]
    edited = []
    for row, (plan, source, env) in enumerate(zip(plans, sources, targets, strict=True)):
        label = 1 - source["label"] if kind == "label" else source["label"]
        edited.append(edit_of(plan, row, label, source["env"] if kind == "stays" else env))
    checks = Checks(CheckOptions(**options), items, judge or PlantedJudge(items))
    return checks.check(sources, targets, plans, edited)


def test_good_edits_pass_in_every_group(items: TrainItems) -> None:
    found = judged(items)
    failed = [checked.fault for checked in found if checked.fault]
    # The quantile of the label's margins alone rejects a few by its nature.
    assert set(failed) <= {LABEL, DISTANCE} and len(failed) <= 0.06 * len(found)
    gains = np.array([checked.columns["env_gain"] for checked in found])
    assert gains.mean() == pytest.approx(1, abs=0.15) and gains.min() > 0.5
    minority = [
        c.columns["env_margin"] for c, y, e in zip(found, items.label, items.env, strict=True) if y == e
    ]
    assert min(minority) > 0


@pytest.mark.parametrize(("kind", "fault"), [("label", LABEL), ("stays", ENVIRONMENT)])
def test_planted_faults_are_found_in_the_embedding(items: TrainItems, kind: str, fault: str) -> None:
    found = [checked.fault for checked in judged(items, kind)]
    assert set(found) <= {fault, DISTANCE, None} and found.count(None) < 0.05 * len(found)
    assert np.mean([one == fault for one in found]) > 0.75


def test_figures_and_their_units(items: TrainItems) -> None:
    judge = PlantedJudge(items)
    checked = judged(items, judge=judge)[0]
    source = items.table.to_pylist()[0]
    before = judge.vectors[0]
    after = judge.at(source["label"], 1 - source["env"])[0] + judge.noise[0]
    assert checked.columns["embedding_distance"] == pytest.approx(6, abs=1e-3)
    own = (2 * source["label"] - 1) * after[0]
    assert checked.columns["label_margin"] == pytest.approx(2 * own, abs=1e-3)
    assert checked.columns["foreground_change"] == 0 and checked.columns["foreground_change_max"] == 0
    assert checked.columns["background_change"] == pytest.approx(1, abs=0.01)
    assert checked.columns["score"] == pytest.approx(1 - 64 / 256, abs=0.01)
    label, env = source["label"], source["env"]
    foreign = np.array([s != source["subject"] for s in items.table["subject"].to_pylist()])
    there = (items.label == label) & (items.env == 1 - env) & foreign
    rank = np.mean(np.linalg.norm(judge.vectors[there] - before, axis=1) < 6)
    assert checked.columns["distance_rank"] == pytest.approx(rank, abs=1e-4)
    means = []
    for where in (env, 1 - env):
        rows = (items.label == label) & (items.env == where) & foreign
        means.append(judge.vectors[rows].mean(axis=0))
    margin = np.linalg.norm(after - means[0]) - np.linalg.norm(after - means[1])
    assert checked.columns["env_margin"] == pytest.approx(margin, abs=1e-3)


def test_each_vector_is_judged_without_its_source(items: TrainItems) -> None:
    judge = PlantedJudge(items)
    judged(items, judge=judge)
    assert [list(asked) for asked in judge.asked] == [list(items.ids)] * 2


def test_pixels_come_first_and_spare_the_encoder(items: TrainItems) -> None:
    class Unwanted(PlantedJudge):
        def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
            raise AssertionError("nothing was to be encoded")

    source = items.table.to_pylist()[0]
    plan = plan_of(0)
    wiped = np.full_like(plan.source, 90)
    checks = Checks(CheckOptions(), items, Unwanted(items))
    same, other = checks.check([source] * 2, [1 - source["env"]] * 2, [plan] * 2, [plan.source, wiped])
    assert (same.fault, other.fault) == (BACKGROUND, FOREGROUND)
    assert other.columns["foreground_change"] == other.columns["foreground_change_max"] == 110


def test_an_edit_without_a_mask_must_change_something(items: TrainItems) -> None:
    plan = plan_of(0, mask=False)
    thin = plan.source.copy()
    thin[5, :8] = 10
    checks = Checks(CheckOptions(), items, None)
    source = items.table.to_pylist()[0]
    same, line = checks.check([source] * 2, [1] * 2, [plan] * 2, [plan.source, thin])
    assert (same.fault, line.fault) == (BACKGROUND, None)
    assert "foreground_change" not in line.columns and line.columns["background_change"] == 8 / 256


def test_a_limit_of_null_is_not_held(items: TrainItems) -> None:
    limits = {"label": None, "environment": None, "distance": None}
    for kind in ("label", "stays"):
        assert not any(checked.fault for checked in judged(items, kind, **limits))


def test_text_tells_environments_apart(items: TrainItems) -> None:
    judge = PlantedJudge(items, texts=True)
    rest = {"label": None, "environment": None, "distance": None}
    good = judged(items, judge=judge, text=0.0, **rest)
    assert not any(checked.fault for checked in good)
    assert min(checked.columns["text_gain"] for checked in good) > 0.5
    assert {checked.fault for checked in judged(items, "stays", judge=judge, text=0.1, **rest)} == {TEXT}
    assert "text_gain" not in judged(items)[0].columns
    swapped = judged(items, judge=judge, prompts={"brown": "grass", "green": "brown soil"}, **rest)
    assert max(checked.columns["text_gain"] for checked in swapped) < -0.5


def test_a_perfect_shortcut_is_judged_by_whole_environments(tmp_path_factory: pytest.TempPathFactory) -> None:
    counts = {("train", 0, 0): 30, ("train", 1, 1): 30}
    manifest = fake_manifest(Workspace(tmp_path_factory.mktemp("perfect")), counts, size=16)
    items = TrainItems.of(manifest)
    good, stays = judged(items), judged(items, "stays")
    assert not any(checked.fault == ENVIRONMENT for checked in good)
    assert all(checked.fault == ENVIRONMENT for checked in stays)
    assert {checked.columns["distance_rank"] for checked in good} == {None}


def test_a_group_without_enough_real_items_leaves_the_label_unjudged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    counts = {("train", 0, 0): 30, ("train", 0, 1): 4, ("train", 1, 0): 30, ("train", 1, 1): 30}
    items = TrainItems.of(fake_manifest(Workspace(tmp_path_factory.mktemp("few")), counts, size=16))
    faults: dict[tuple[int, int], list[str | None]] = {}
    for checked, label, env in zip(judged(items, "label"), items.label, items.env, strict=True):
        assert checked.columns["label_margin"] is not None
        faults.setdefault((int(label), 1 - int(env)), []).append(checked.fault)
    assert LABEL not in faults[0, 1]
    assert all(faults[group].count(LABEL) > 1 for group in ((0, 0), (1, 0), (1, 1)))
    checks = Checks(CheckOptions(), items, PlantedJudge(items))
    source = next(row for row in items.table.to_pylist() if (row["label"], row["env"]) == (0, 0))
    plan = plan_of(0)
    checks.check([source], [1], [plan], [edit_of(plan, 0, 0, 1)])
    assert checks.unjudged == {(0, 1)}


def test_items_without_a_vector_are_judged_by_pixels_and_label(items: TrainItems) -> None:
    class Partial(PlantedJudge):
        def training(self) -> Embeddings:
            return Embeddings(list(self.items.ids[1:]), self.vectors[1:])

    first = judged(items, judge=Partial(items))[0]
    assert first.columns["env_margin"] is None and first.columns["label_margin"] is not None


def test_the_card_says_limits_spread_and_rejections(items: TrainItems) -> None:
    found = judged(items, "stays")
    rows = [
        c.columns | {"status": "rejected" if c.fault else "ok", "reason": c.fault}
        for c in [*judged(items), *found]
    ]
    card = check_section(CheckOptions(label=None), rows)
    line = next(line for line in card.splitlines() if line.startswith("| part of the way"))
    assert "| at least 0.25 |" in line and line.endswith(f"| {sum(c.fault == ENVIRONMENT for c in found)} |")
    assert "| margin of the label probe | none |" in card
    assert "similarity" not in card


@pytest.mark.parametrize(
    ("options", "message"),
    [({"background": 2}, "background"), ({"foregrond": 1}, "perhaps 'foreground'"), ({"label": 1}, "label")],
)
def test_bad_limits_are_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_options(CheckOptions, options, "checks")
    assert "\n" not in str(caught.value)
