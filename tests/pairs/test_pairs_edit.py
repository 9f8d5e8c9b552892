"""Edited pairs: the builder with the composite editor, and its way through faults."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from fakes import DEFAULT_COUNTS, fake_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cfpairs.config import parse_options
from cfpairs.errors import ConfigError, DataError, UnknownNameError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cells import TrainItems
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditScene, EditTask, Mask
from cfpairs.pairs.edit.builder import EditBuilder
from cfpairs.pairs.edit.options import EditOptions
from cfpairs.pairs.edit.pixels import decode_image, read_file
from cfpairs.pairs.edit.streams import Outcome, Stream, in_order, make_streams, next_wave
from cfpairs.pairs.random import RandomOptions
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, PAIRS
from cfpairs.workspace import Workspace


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    workspace = Workspace(tmp_path)
    return BuildInputs(workspace, "edit", fake_manifest(workspace), 8, 0)


def build(inputs: BuildInputs, options: Mapping[str, object] | None = None, **changes: object) -> PairSet:
    """Build with the masks that the manifest lists, and no guesses, unless told otherwise."""
    chosen = EditOptions(**({"masks": ("column",)} | dict(options or {})))
    return EditBuilder(chosen).build(replace(inputs, **changes))


def read(workspace: Workspace, path: str) -> np.ndarray:
    with Image.open(workspace.file(path)) as image:
        return np.asarray(image)


def image_hashes(inputs: BuildInputs) -> dict[str, str]:
    folder = inputs.workspace.pair_images(inputs.name)
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_an_edit_keeps_the_foreground_and_changes_the_background(inputs: BuildInputs) -> None:
    made = build(inputs)
    assert made.items is not None
    PAIRS.validate(made.pairs)
    MANIFEST.validate(made.items)
    rows = {r["item_id"]: r for r in inputs.manifest.to_pylist() + made.items.to_pylist()}
    for pair in made.pairs.to_pylist():
        a, b, ground = rows[pair["a_id"]], rows[pair["b_id"]], rows[pair["background_id"]]
        before, after = (read(inputs.workspace, r["path"]) for r in (a, b))
        mask = read(inputs.workspace, a["mask_path"])
        assert (after[mask == 255] == before[mask == 255]).all()
        # The background has the colour of the target environment: green or brown.
        beyond = after[mask == 0].mean(axis=0)
        assert bool(beyond[0] > beyond[1]) == bool(pair["env_b"])
        assert pair["score"] == pytest.approx((mask < 255).mean(), abs=0.15)
        assert ground["env"] == b["env"] == pair["env_b"] != pair["env_a"] == a["env"]
        assert ground["split"] == "train"


def test_rows_of_the_edited_items(inputs: BuildInputs) -> None:
    made = build(inputs)
    assert made.items is not None
    rows = {r["item_id"]: r for r in inputs.manifest.to_pylist()}
    for item in made.items.to_pylist():
        parent = rows[item["parent_id"]]
        if item["origin"] == "control":
            continue
        assert item["origin"] == "edit" and item["split"] == "train" and item["pair_set"] == "edit"
        same = ("label", "label_name", "subject", "mask_path", "width", "height")
        assert [item[k] for k in same] == [parent[k] for k in same]
        assert item["path"] == f"pairs/edit/images/{item['item_id']}.png"
        assert item["env_name"] == ("green", "brown")[item["env"]]
    edits = made.items.filter(pa.compute.equal(made.items["origin"], "edit"))
    assert edits["item_id"].to_pylist() == made.pairs["b_id"].to_pylist()


def test_every_pair_of_a_target_has_a_background_of_its_own(inputs: BuildInputs) -> None:
    pairs = build(inputs, n_pairs=20).pairs
    for env in (0, 1):
        used = pairs.filter(pa.compute.equal(pairs["env_b"], env))["background_id"].to_pylist()
        assert len(set(used)) == min(len(used), 12)


def test_the_same_bytes_again_whatever_the_number_of_threads(inputs: BuildInputs, tmp_path: Path) -> None:
    first = build(inputs, {"workers": 1})
    workspace = Workspace(tmp_path / "other")
    other = replace(inputs, workspace=workspace, manifest=fake_manifest(workspace))
    second = build(other, {"workers": 4})
    assert first.pairs.equals(second.pairs) and first.items.equals(second.items)
    assert first.card == second.card
    assert image_hashes(inputs) == image_hashes(other)
    assert not first.pairs["b_id"].equals(build(inputs, seed=1).pairs["b_id"])


def test_a_larger_set_begins_with_the_smaller(inputs: BuildInputs) -> None:
    large = build(inputs, n_pairs=24).pairs
    for n in (1, 5, 11):
        assert build(inputs, n_pairs=n).pairs.equals(large.slice(0, n))


def test_images_that_are_there_are_kept_and_a_broken_one_is_made_again(inputs: BuildInputs) -> None:
    build(inputs)
    folder = inputs.workspace.pair_images("edit")
    whole = image_hashes(inputs)
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    broken, lost = sorted(folder.iterdir())[:2]
    broken.write_bytes(broken.read_bytes()[:60])
    lost.unlink()
    again = build(inputs)
    assert again.counts() == {"ok": 8}
    assert image_hashes(inputs) == whole
    assert all(p.stat().st_mtime_ns == t for p, t in times.items() if p not in (broken, lost))


def test_another_image_behind_the_same_id_is_another_edit(inputs: BuildInputs) -> None:
    before = build(inputs).pairs.to_pylist()
    source = next(r for r in inputs.manifest.to_pylist() if r["item_id"] == before[0]["a_id"])
    file = inputs.workspace.file(source["path"])
    Image.fromarray(255 - read(inputs.workspace, source["path"])).save(file)
    after = build(inputs).pairs.to_pylist()
    assert after[0]["a_id"] == before[0]["a_id"] and after[0]["b_id"] != before[0]["b_id"]


def test_two_pair_sets_share_no_item(inputs: BuildInputs) -> None:
    one, other = build(inputs), build(inputs, name="second")
    assert not set(one.pairs["b_id"].to_pylist()) & set(other.pairs["b_id"].to_pylist())
    assert one.pairs["a_id"].equals(other.pairs["a_id"])


def damage(inputs: BuildInputs, row: Mapping[str, object], how: str) -> str:
    """Spoil one item; returns what its rejection must say."""
    image = inputs.workspace.file(str(row["path"]))
    mask = inputs.workspace.file(str(row["mask_path"]))
    if how == "wrong size":
        Image.new("L", (20, 32), 255).save(mask)
        return "mask of the wrong size: 20 x 32, image 32 x 32"
    if how == "empty mask":
        Image.new("L", (32, 32), 0).save(mask)
        return "mask is empty"
    if how == "full mask":
        Image.new("L", (32, 32), 255).save(mask)
        return "mask is full"
    if how == "truncated":
        image.write_bytes(image.read_bytes()[:200])
        return "image cannot be decoded"
    if how == "no image":
        image.write_bytes(b"nothing")
        return "image cannot be decoded: no image"
    if how == "no file":
        image.unlink()
        return "image cannot be read: No such file or directory"
    mask.unlink()
    return "mask cannot be read"


@pytest.mark.parametrize(
    "how", ["wrong size", "empty mask", "full mask", "truncated", "no image", "no file", "no mask"]
)
def test_a_bad_item_is_rejected_and_another_takes_its_place(inputs: BuildInputs, how: str) -> None:
    first = build(inputs).pairs.to_pylist()[0]
    row = next(r for r in inputs.manifest.to_pylist() if r["item_id"] == first["a_id"])
    reason = damage(inputs, row, how)
    made = build(inputs)
    assert made.counts() == {"ok": 8, "rejected": 1}
    bad = made.pairs.to_pylist()[0]
    assert (bad["a_id"], bad["status"], bad["score"]) == (first["a_id"], "rejected", None)
    assert bad["reason"].startswith(reason)
    assert made.items is not None and bad["b_id"] not in made.items["item_id"].to_pylist()
    replacement = made.pairs.to_pylist()[1]
    assert replacement["status"] == "ok"
    assert [replacement[k] for k in ("label", "env_a", "env_b")] == [
        bad[k] for k in ("label", "env_a", "env_b")
    ]
    assert "Yield: 8 of 9 tried" in made.card
    assert bad["reason"].partition(":")[0] in made.card
    assert build(inputs).pairs.equals(made.pairs)


def test_a_bad_background_is_passed_over(inputs: BuildInputs) -> None:
    before = build(inputs).pairs.to_pylist()
    row = next(r for r in inputs.manifest.to_pylist() if r["item_id"] == before[0]["background_id"])
    damage(inputs, row, "empty mask")
    after = {r["a_id"]: r for r in build(inputs).pairs.to_pylist() if r["status"] == "ok"}
    pair = after[before[0]["a_id"]]
    assert pair["background_id"] != before[0]["background_id"]


def test_nothing_that_can_be_edited_is_one_line(inputs: BuildInputs) -> None:
    for row in inputs.manifest.to_pylist():
        damage(inputs, row, "empty mask")
    with pytest.raises(DataError, match="24 items rejected, 24 of them because: mask is empty"):
        build(inputs, n_pairs=30)


def test_no_masks_say_what_is_needed(inputs: BuildInputs) -> None:
    blank = pa.nulls(inputs.manifest.num_rows, pa.string())
    place = inputs.manifest.column_names.index("mask_path")
    with pytest.raises(DataError, match="mask_path in the manifest"):
        build(inputs, manifest=inputs.manifest.set_column(place, "mask_path", blank))


def test_an_environment_without_masks_is_no_target(inputs: BuildInputs) -> None:
    rows = inputs.manifest.to_pylist()
    for row in rows:
        row["mask_path"] = row["mask_path"] if row["env"] == 0 else None
    table = pa.Table.from_pylist(rows, schema=inputs.manifest.schema)
    with pytest.raises(DataError, match="the item has no mask"):
        build(inputs, manifest=table)


def test_one_environment_is_one_line(inputs: BuildInputs) -> None:
    table = inputs.manifest.filter(pa.compute.equal(inputs.manifest["env"], 1))
    with pytest.raises(DataError, match="two environments in split train"):
        build(inputs, manifest=table)


def test_an_empty_group_is_a_note_and_its_edits_are_made(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    counts = {("train", 0, 0): 5, ("train", 1, 1): 5}
    inputs = BuildInputs(workspace, "edit", fake_manifest(workspace, counts), 6, 0)
    made = build(inputs)
    assert made.counts() == {"ok": 6}
    assert made.notes == ("no training item in lying on brown, standing on green",)


def test_one_label_is_a_note(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    table = fake_manifest(workspace, {("train", 0, 0): 3, ("train", 0, 1): 3})
    assert build(BuildInputs(workspace, "edit", table, 4, 0)).notes[0].startswith("only one label")


def test_a_shortfall_is_said_and_more_edits_of_an_item_mend_it(inputs: BuildInputs) -> None:
    short = build(inputs, n_pairs=40)
    assert short.counts() == {"ok": 24}
    assert short.notes == (
        "asked for 40 pairs, made 24: no more candidates; option 'per_item' allows more of each",
    )
    more = build(inputs, {"per_item": 2}, n_pairs=40)
    assert more.counts()["ok"] == 40
    assert max(Counter(more.pairs["a_id"].to_pylist()).values()) == 2


def test_the_same_edit_is_not_made_twice(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    table = fake_manifest(workspace, {("train", 0, 0): 1, ("train", 0, 1): 2})
    made = build(BuildInputs(workspace, "edit", table, 20, 0), {"per_item": 5})
    ok = [(r["a_id"], r["background_id"]) for r in made.pairs.to_pylist() if r["status"] == "ok"]
    assert sorted(ok) == sorted(set(ok)) and len(ok) == 4
    reasons = Counter(r["reason"] for r in made.pairs.to_pylist() if r["status"] == "rejected")
    assert reasons == {"the same edit is there already": 11}


def test_choice_of_items(inputs: BuildInputs) -> None:
    def cells(choose: str, n: int) -> Counter[tuple[int, int, int]]:
        rows = build(inputs, {"choose": choose}, n_pairs=n).pairs.to_pylist()
        return Counter((r["label"], r["env_a"], r["env_b"]) for r in rows)

    assert cells("balanced", 8) == {(0, 0, 1): 2, (0, 1, 0): 2, (1, 0, 1): 2, (1, 1, 0): 2}
    # The groups of two are filled first: 2 + 8 of each, then all four groups have ten.
    assert cells("minority", 16) == {(0, 0, 1): 8, (1, 1, 0): 8}
    assert set(cells("minority", 20)) == {(0, 0, 1), (1, 1, 0), (0, 1, 0), (1, 0, 1)}
    assert cells("all", 24) == {(0, 0, 1): 10, (0, 1, 0): 2, (1, 0, 1): 2, (1, 1, 0): 10}


def test_three_environments(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    table = fake_manifest(workspace, {("train", 0, e): 4 for e in range(3)})
    made = build(BuildInputs(workspace, "edit", table, 12, 0))
    moves = Counter((r["env_a"], r["env_b"]) for r in made.pairs.to_pylist())
    assert moves == {(a, b): 2 for a in range(3) for b in range(3) if a != b}


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    n=st.integers(1, 30),
    choose=st.sampled_from(["balanced", "minority", "all"]),
    shares=st.sampled_from([None, {0: 3, 1: 1}, {0: 1, 1: 1}]),
)
def test_waves_give_what_one_by_one_would_and_keep_the_prefix(
    data: st.DataObject, n: int, choose: str, shares: dict[int, int] | None
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=4, max_size=4))
    groups = {(i // 2, i % 2): np.arange(10 * i, 10 * i + s) for i, s in enumerate(sizes) if s}
    if len({e for _, e in groups}) < 2:
        return
    items = SimpleNamespace(groups=groups, label_names={0: "x", 1: "y"}, env_names={0: "p", 1: "q"})
    good = data.draw(st.lists(st.booleans(), min_size=40, max_size=40))

    def run(wanted: int) -> list[str]:
        streams = make_streams(items, frozenset({0, 1}), choose, 1, 0, shares)  # type: ignore[arg-type]
        while wave := next_wave(streams, wanted):
            for stream, place in wave:
                row, env = stream.candidates[place].tolist()
                name = f"{row}>{env}"
                stream.add(Outcome({"name": name}, {"item_id": name} if good[row] else None))
        return [o.pair["name"] + ("" if o.item else "!") for o in in_order(streams)]

    long = run(n + 5)
    short = run(n)
    assert long[: len(short)] == short
    made = [name for name in short if not name.endswith("!")]
    possible = sum(good[row] for rows in groups.values() for row in rows)
    assert len(made) == min(n, possible)
    # One by one: the last pair that was made ends the run.
    assert len(made) < n or not short[-1].endswith("!")


def test_turns_number_the_candidates_of_a_target() -> None:
    items = SimpleNamespace(
        groups={(0, 0): np.arange(3), (1, 0): np.arange(3, 5), (0, 1): np.arange(5, 9)},
        label_names={0: "x", 1: "y"},
        env_names={0: "p", 1: "q"},
    )
    streams: list[Stream] = make_streams(items, frozenset({0, 1}), "balanced", 1, 0)  # type: ignore[arg-type]
    turns = [t for s in streams for t, (_, env) in zip(s.turns, s.candidates, strict=True) if env == 1]
    assert len(set(turns)) == len(turns) == 5


@pytest.mark.parametrize("choose", ["balanced", "minority", "all"])
def test_labels_take_turns_by_their_shares(inputs: BuildInputs, choose: str) -> None:
    def labels(shares: Mapping[str, int], n: int) -> list[int]:
        options = {"choose": choose, "shares": shares}
        return build(inputs, options, n_pairs=n).pairs["label"].to_pylist()

    dealt = labels({"lying": 3, "standing": 1}, 16)
    assert Counter(dealt) == {0: 12, 1: 4}
    assert Counter(dealt[:8]) == {0: 6, 1: 2}
    assert labels({"lying": 3, "standing": 1}, 7) == dealt[:7]
    assert set(labels({"standing": 5}, 6)) == {1}
    # A label that is used up leaves its turns to the other.
    assert Counter(labels({"lying": 3, "standing": 1}, 20)) == {0: 12, 1: 8}


class Painter:
    """An editor for tests: paints everything but the foreground, in batches, and counts its calls."""

    version = 1
    summary = "Painted."
    limits = ()
    threaded = False

    def __init__(self, batch_size: int = 3, weak: int = 0, fails: int | None = None) -> None:
        self.batch_size, self.weak, self.fails = batch_size, weak, fails
        self.batches: list[int] = []
        self.closed = 0

    def open(self, scene: EditScene) -> frozenset[int]:
        self.scene = scene
        return frozenset(scene.env_names)

    def plan(self, task: EditTask) -> EditPlan:
        content = read_file(self.scene.workspace.file(task.item["path"]), "image")
        image = decode_image(content, "image")
        mask = self.scene.masks.mask(task.item, image, content)
        key = (task.item["item_id"], str(task.turn), str(task.attempt))
        return EditPlan(image, key, mask, {"prompt": "paint"}, {"task": task})

    def edit(self, plans: Sequence[EditPlan]) -> list[np.ndarray | EditRejectedError]:
        self.batches.append(len(plans))
        return [self.paint(plan) for plan in plans]

    def paint(self, plan: EditPlan) -> np.ndarray | EditRejectedError:
        task = plan.data["task"]
        if self.fails is not None and task.turn % 3 == self.fails:
            raise RuntimeError("out of memory")
        if task.attempt < self.weak:
            return plan.source.copy()
        keep = plan.mask.alpha[:, :, None] > 0
        return np.where(keep, plan.source, np.uint8(40 + 50 * task.env + task.attempt))

    def close(self) -> None:
        self.closed += 1


def painted(
    inputs: BuildInputs, painter: Painter, options: Mapping[str, object] | None = None, **changes: object
) -> PairSet:
    builder = EditBuilder(EditOptions(**({"masks": ("column",)} | dict(options or {}))))
    builder.editor = painter  # type: ignore[assignment]
    return builder.build(replace(inputs, **changes))


def test_an_editor_without_threads_gets_batches_and_gives_the_same_whatever_their_size(
    inputs: BuildInputs, tmp_path: Path
) -> None:
    three, one = Painter(3), Painter(1)
    first = painted(inputs, three)
    workspace = Workspace(tmp_path / "other")
    other = replace(inputs, workspace=workspace, manifest=fake_manifest(workspace))
    second = painted(other, one, {"workers": 1})
    assert three.batches == [3, 3, 2] and one.batches == [1] * 8
    assert three.closed == one.closed == 1
    assert first.pairs.equals(second.pairs) and image_hashes(inputs) == image_hashes(other)
    assert set(first.pairs["prompt"].to_pylist()) == {"paint"}


def test_what_an_editor_without_threads_has_made_is_kept(inputs: BuildInputs) -> None:
    whole = painted(inputs, Painter())
    images = sorted(inputs.workspace.pair_images("edit").iterdir())
    for lost in images[:3]:
        lost.unlink()
    again = Painter()
    assert painted(inputs, again).pairs.equals(whole.pairs)
    assert again.batches == [3]
    assert sorted(inputs.workspace.pair_images("edit").iterdir()) == images


def test_an_editor_that_breaks_costs_the_images_it_breaks_on(inputs: BuildInputs) -> None:
    made = painted(inputs, Painter(fails=0), n_pairs=6)
    rows = made.pairs.to_pylist()
    reasons = {r["reason"] for r in rows if r["status"] == "rejected"}
    assert made.counts()["ok"] == 6 and reasons == {"the edit failed: RuntimeError"}


def test_a_failed_check_is_tried_again_with_another_attempt(inputs: BuildInputs) -> None:
    made = painted(inputs, Painter(weak=1))
    rows = made.pairs.to_pylist()
    assert [(r["status"], r["attempts"]) for r in rows] == [("ok", 2)] * 8
    assert {r["mask_source"] for r in rows} == {"column"}
    assert min(r["background_change"] for r in rows) == 1 and {r["foreground_change"] for r in rows} == {0}


def test_attempts_that_are_used_up_leave_a_rejected_pair_and_its_image(inputs: BuildInputs) -> None:
    with pytest.raises(DataError, match="24 of them because: the background did not change"):
        painted(inputs, Painter(weak=3), n_pairs=4)
    with pytest.raises(DataError, match="24 items rejected"):
        painted(inputs, Painter(weak=1), {"attempts": 1}, n_pairs=4, name="once")
    made = painted(inputs, HalfWeak(), n_pairs=4, name="half")
    bad = [r for r in made.pairs.to_pylist() if r["status"] == "rejected"]
    assert bad and {(r["reason"], r["attempts"]) for r in bad} == {("the background did not change", 3)}
    assert all(inputs.workspace.file(r["rejected_path"]).is_file() and r["score"] == 0 for r in bad)
    assert made.counts()["ok"] == 4
    line = next(line for line in made.card.splitlines() if line.startswith("| share of the background"))
    assert line.endswith(f"| {len(bad)} |")


class HalfWeak(Painter):
    """Never paints anything on items of even turns."""

    def paint(self, plan: EditPlan) -> np.ndarray | EditRejectedError:
        return plan.source.copy() if plan.data["task"].turn % 2 == 0 else super().paint(plan)


def test_a_larger_set_begins_with_the_smaller_through_retries_and_rejections(inputs: BuildInputs) -> None:
    options = {"attempts": 2}
    large = painted(inputs, HalfWeak(weak=1), options, n_pairs=10).pairs
    for n in (1, 4, 7):
        small = painted(inputs, HalfWeak(weak=1), options, n_pairs=n).pairs
        assert small["pair_id"].to_pylist() == large["pair_id"].to_pylist()[: len(small)]


def test_an_edit_that_gives_the_same_image_again_is_not_made_again(inputs: BuildInputs) -> None:
    class Stubborn(Painter):
        def plan(self, task: EditTask) -> EditPlan:
            return replace(super().plan(task), key=(task.item["item_id"],))

    editor = Stubborn(weak=9, batch_size=64)
    with pytest.raises(DataError, match="background did not change"):
        painted(inputs, editor, n_pairs=24)
    assert sum(editor.batches) == 24


def test_a_foreground_that_is_not_kept_is_rejected(inputs: BuildInputs) -> None:
    class Wiper(Painter):
        def paint(self, plan: EditPlan) -> np.ndarray:
            return np.full_like(plan.source, 120)

    with pytest.raises(DataError, match="the foreground changed"):
        painted(inputs, Wiper(), n_pairs=4)
    made = painted(inputs, Wiper(), {"checks": {"foreground": None}}, n_pairs=4)
    assert min(made.pairs["foreground_change"].to_pylist()) > 50


def test_a_computed_mask_is_written_beside_its_image_and_guesses_are_said(inputs: BuildInputs) -> None:
    class Guess:
        def has(self, item: Mapping[str, object]) -> bool:
            return True

        def mask(self, item: Mapping[str, object], image: np.ndarray, content: bytes) -> Mask:
            alpha = np.zeros(image.shape[:2], np.float32)
            alpha[8:24, 8:24] = 1
            return Mask(alpha, "guess", "grabcut")

    class Guesser(Painter):
        def open(self, scene: EditScene) -> frozenset[int]:
            return super().open(replace(scene, masks=Guess()))

    made = painted(inputs, Guesser())
    assert made.items is not None
    for item in made.items.to_pylist():
        assert item["mask_path"] == f"pairs/edit/images/{item['item_id']}.mask.png"
        assert (read(inputs.workspace, item["mask_path"]) == 255).sum() == 256
    assert "8 of 8 masks were guessed by GrabCut: look at some of the edits" in made.notes
    again = Guesser()
    inputs.workspace.file(made.items["mask_path"].to_pylist()[0]).unlink()
    assert painted(inputs, again).pairs.equals(made.pairs) and again.batches == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"laying": 1}}, "got 'laying', expected perhaps 'lying'"),
        ({"masks": ("colum",)}, "perhaps 'column'"),
        ({"mask_options": {"column": {"folde": "x"}}}, "masker 'column'"),
    ],
)
def test_options_that_do_not_fit_the_data_are_one_clear_line(
    inputs: BuildInputs, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(inputs, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"lying": 0}}, "at least one label"),
        ({"attempts": 0}, "attempts"),
        ({"checks": {"labels": 1}}, "checks"),
        ({"chose": "all"}, "perhaps 'choose'"),
        ({"choose": "some"}, "choose"),
        ({"per_item": 0}, "per_item"),
        ({"editor_options": {"feather": -1}}, "editor 'composite': feather"),
        ({"editor_options": {"smallest": 0.6}}, "smallest must be below"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        EditBuilder(parse_options(EditOptions, options, "edit"))
    assert "\n" not in str(caught.value)


def test_names() -> None:
    assert resolve("pairs", "edit") is EditBuilder
    with pytest.raises(UnknownNameError, match="perhaps 'composite'"):
        EditBuilder(EditOptions(editor="composit"))
    with pytest.raises(ConfigError):
        EditBuilder(RandomOptions())


def test_the_fake_counts_are_those_that_the_tests_reckon_with(inputs: BuildInputs) -> None:
    assert len(TrainItems.of(inputs.manifest).ids) == sum(
        n for (split, *_), n in DEFAULT_COUNTS.items() if split == "train"
    )
