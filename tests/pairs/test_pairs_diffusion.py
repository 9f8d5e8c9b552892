"""Editors that run diffusion pipelines: real ones of diffusers, tiny and with random weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion_fakes import save_inpainting, save_instruct, save_single_file, save_text_to_image
from fakes import fake_workspace
from numpy.typing import NDArray

from cfpairs.config import parse_options, read_config
from cfpairs.errors import CfpairsError, ConfigError, DataError, MissingDependencyError
from cfpairs.pairs.edit import diffusion
from cfpairs.pairs.edit.base import EditRejectedError, EditScene, EditTask, Mask
from cfpairs.pairs.edit.diffusion import choose_precision
from cfpairs.pairs.edit.diffusion_files import digest
from cfpairs.pairs.edit.frame import Frame
from cfpairs.pairs.edit.inpaint import InpaintEditor, InpaintOptions
from cfpairs.pairs.edit.instruct import InstructEditor, InstructOptions
from cfpairs.pairs.edit.pixels import decode_levels, read_file
from cfpairs.tables import load_manifest

COUNTS = {("train", y, e): 2 for y in (0, 1) for e in (0, 1)}
PROMPTS = {"green": "a {label} bar on grass", "brown": ["{env} sand", "mud"]}


class FileMasks:
    """The masks that the manifest lists."""

    def __init__(self, scene_root: Path) -> None:
        self.root = scene_root

    def has(self, item: Mapping[str, Any]) -> bool:
        return item["mask_path"] is not None

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        found = read_file(self.root / item["mask_path"], "mask")
        return Mask(decode_levels(found, "mask"), hashlib.sha256(found).hexdigest(), "file")


class NoMasks:
    def has(self, item: Mapping[str, Any]) -> bool:
        return False

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        raise EditRejectedError("no mask")


class OneMask(NoMasks):
    """The same mask for every item."""

    def __init__(self, found: Mask) -> None:
        self.found = found

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        return self.found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_inpainting(root / "inpainting")
    save_inpainting(root / "checked", checker=True)
    save_instruct(root / "instruct")
    save_text_to_image(root / "text")
    return root


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> EditScene:
    workspace = fake_workspace(tmp_path_factory.mktemp("scene") / "work", COUNTS, size=48)
    items = load_manifest(workspace)
    return EditScene(
        workspace,
        items,
        {0: "green", 1: "brown"},
        {0: "lying", 1: "standing"},
        FileMasks(workspace.root),
        seed=0,
    )


def inpaint(models: Path, name: str = "inpainting", **options: Any) -> InpaintEditor:
    values = {"model": str(models / name), "prompts": PROMPTS, "steps": 2, "device": "cpu", **options}
    return InpaintEditor(parse_options(InpaintOptions, values, "editor 'inpaint'"))


def instruct(models: Path, name: str = "instruct", **options: Any) -> InstructEditor:
    values = {"model": str(models / name), "prompts": PROMPTS, "steps": 2, "device": "cpu", **options}
    return InstructEditor(parse_options(InstructOptions, values, "editor 'instruct'"))


@pytest.fixture(scope="session")
def painter(models: Path, scene: EditScene) -> Iterator[InpaintEditor]:
    """An open editor that makes four at once."""
    editor = inpaint(models, batch_size=4)
    assert editor.open(scene) == {0, 1}
    yield editor
    editor.close()


Patch = Callable[[Callable[..., Any]], list[dict[str, Any]]]


@pytest.fixture
def calls(painter: InpaintEditor, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Put something between the editors and their pipelines; gives the list of calls."""
    kind = type(painter._opened()[1].pipeline)
    original = kind.__call__

    def patch(between: Callable[..., Any]) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []

        @functools.wraps(original)
        def call(self: Any, **given: Any) -> Any:
            seen.append(given)
            return between(lambda: original(self, **given), given)

        monkeypatch.setattr(kind, "__call__", call)
        return seen

    return patch


def task(scene: EditScene, row: int, *, turn: int = 0, attempt: int = 0) -> EditTask:
    item = scene.items.slice(row, 1).to_pylist()[0]
    return EditTask(item, 1 - item["env"], turn, attempt)


def image(made: NDArray[np.uint8] | EditRejectedError) -> NDArray[np.uint8]:
    assert isinstance(made, np.ndarray), made
    return made


def test_the_foreground_is_kept_bit_for_bit_and_the_background_painted(
    painter: InpaintEditor, scene: EditScene
) -> None:
    plan = painter.plan(task(scene, 0))
    edited = image(painter.edit([plan])[0])
    assert plan.mask is not None and edited.shape == plan.source.shape and edited.dtype == np.uint8
    core, outside = plan.mask.alpha == 1, plan.mask.alpha == 0
    assert core.sum() > 300 and (edited[core] == plan.source[core]).all()
    moved = np.abs(edited.astype(int) - plan.source).max(axis=2)
    assert (moved[outside] > 8).mean() > 0.9
    assert plan.columns == {"prompt": "brown sand", "edit_seed": plan.data["seed"]}


def test_an_image_does_not_depend_on_its_batch(painter: InpaintEditor, scene: EditScene) -> None:
    plans = [painter.plan(task(scene, row)) for row in range(6)]
    together = [image(made) for made in painter.edit(plans)]
    alone = [image(painter.edit([plan])[0]) for plan in plans]
    for one, other in zip(together, alone, strict=True):
        assert (one == other).all()
    assert len({one.tobytes() for one in together}) == 6


def test_the_same_plan_gives_the_same_pixels_in_another_editor(
    painter: InpaintEditor, models: Path, scene: EditScene
) -> None:
    plan = painter.plan(task(scene, 3))
    other = inpaint(models, batch_size=4)
    other.open(scene)
    again = other.plan(task(scene, 3))
    assert again.key == plan.key
    assert (image(other.edit([again])[0]) == image(painter.edit([plan])[0])).all()


def test_attempts_turns_and_seeds_give_other_images(painter: InpaintEditor, scene: EditScene) -> None:
    plans = [
        painter.plan(t)
        for t in (task(scene, 1), task(scene, 1, attempt=1), task(scene, 1, turn=2), task(scene, 1))
    ]
    assert len({plan.key for plan in plans}) == 3
    edited = [image(made).tobytes() for made in painter.edit(plans)]
    assert len(set(edited)) == 3 and edited[0] == edited[3]


def test_prompts_reach_the_pipeline_and_matter(
    painter: InpaintEditor, models: Path, scene: EditScene, calls: Patch
) -> None:
    seen = calls(lambda go, given: go())
    plans = [painter.plan(task(scene, row, turn=turn)) for row, turn in ((0, 0), (0, 1), (2, 0))]
    painter.edit(plans)
    assert seen[0]["prompt"] == ["brown sand", "mud", "a lying bar on grass", "a lying bar on grass"]
    assert (seen[0]["num_inference_steps"], seen[0]["guidance_scale"]) == (2, 7.5)
    # The same seed with another prompt, and with a negative one.
    for options in ({"prompts": {"brown": "mud"}}, {"negative_prompt": "grass"}):
        other = inpaint(models, batch_size=4, **options)
        other.open(scene)
        again = other.plan(task(scene, 0))
        assert again.data["seed"] == plans[0].data["seed"] and again.key != plans[0].key
        before, after = (image(one.edit([p])[0]) for one, p in ((painter, plans[0]), (other, again)))
        assert np.abs(after.astype(int) - before).max() > 2


def test_the_pipeline_sees_the_foreground_and_paints_up_to_its_edge(
    painter: InpaintEditor, models: Path, scene: EditScene
) -> None:
    plan = painter.plan(task(scene, 0))
    assert plan.mask is not None
    frame = Frame(48, 48, 96)
    wide, narrow = (
        np.asarray(inpaint(models, dilate=pixels)._images(plan, frame)["mask_image"]) for pixels in (3, 0)
    )
    assert set(np.unique(wide)) == {0, 255}
    assert (narrow == 255).sum() < (wide == 255).sum() and ((narrow == 255) <= (wide == 255)).all()
    assert ((frame.share(plan.mask.alpha) < 0.5) == (narrow == 255)).all()


def test_what_the_safety_checker_blackens_is_rejected(models: Path, scene: EditScene) -> None:
    checked = inpaint(models, "checked")
    checked.open(scene)
    (made,) = checked.edit([checked.plan(task(scene, 0))])
    assert isinstance(made, EditRejectedError) and "safety checker" in str(made)
    unchecked = inpaint(models, "checked", safety_checker=False)
    unchecked.open(scene)
    assert image(unchecked.edit([unchecked.plan(task(scene, 0))])[0]).any()
    with pytest.raises(ConfigError, match="no safety checker: got safety_checker: true"):
        inpaint(models, safety_checker=True).open(scene)


def test_pixels_that_are_no_numbers_are_rejected(
    painter: InpaintEditor, scene: EditScene, calls: Patch
) -> None:
    def broken(go: Callable[[], Any], given: dict[str, Any]) -> Any:
        result = go()
        result.images[0][:] = np.nan
        return result

    calls(broken)
    first, second = painter.edit([painter.plan(task(scene, row)) for row in (0, 1)])
    assert isinstance(first, EditRejectedError) and "no numbers" in str(first)
    assert image(second).any()


def test_a_batch_that_does_not_fit_is_halved(models: Path, scene: EditScene, calls: Patch) -> None:
    import torch

    def small(go: Callable[[], Any], given: dict[str, Any]) -> Any:
        if len(given["prompt"]) > 2:
            raise torch.cuda.OutOfMemoryError
        return go()

    editor = inpaint(models, batch_size=4)
    editor.open(scene)
    plans = [editor.plan(task(scene, row)) for row in range(3)]
    expected = [image(made) for made in editor.edit(plans)]
    seen = calls(small)
    for made, wanted in zip(editor.edit(plans), expected, strict=True):
        # A batch of another size is computed in another order: the last bits may differ.
        assert np.abs(image(made).astype(int) - wanted).max() <= 1
    assert [len(call["prompt"]) for call in seen] == [4, 2, 2] and editor.batch_size == 2


def test_one_image_that_does_not_fit_is_an_error(models: Path, scene: EditScene, calls: Patch) -> None:
    import torch

    def full(go: Callable[[], Any], given: dict[str, Any]) -> Any:
        raise torch.cuda.OutOfMemoryError

    editor = inpaint(models, batch_size=2)
    editor.open(scene)
    seen = calls(full)
    with pytest.raises(CfpairsError, match=r"too small for a single image: got size 32; lower size"):
        editor.edit([editor.plan(task(scene, 0))])
    assert [len(call["prompt"]) for call in seen] == [2, 1]


def test_a_text_to_image_model_becomes_an_inpainting_pipeline(models: Path, scene: EditScene) -> None:
    editor = inpaint(models, "text")
    editor.open(scene)
    plan = editor.plan(task(scene, 0))
    edited = image(editor.edit([plan])[0])
    assert plan.mask is not None
    core = plan.mask.alpha == 1
    assert (edited[core] == plan.source[core]).all() and (edited[~core] != plan.source[~core]).any()


def test_a_single_file_gives_what_the_folder_gives(
    painter: InpaintEditor, models: Path, scene: EditScene, tmp_path: Path
) -> None:
    file = save_single_file(models / "inpainting", tmp_path / "model.safetensors")
    editor = inpaint(tmp_path, file.name, config=str(models / "inpainting"), batch_size=4)
    editor.open(scene)
    plan, other = (one.plan(task(scene, 2)) for one in (editor, painter))
    assert plan.key != other.key and plan.data == other.data
    assert (image(editor.edit([plan])[0]) == image(painter.edit([other])[0])).all()
    with pytest.raises(ConfigError, match=r"holds weights but no settings.*option config"):
        inpaint(tmp_path, file.name).open(scene)


@pytest.mark.parametrize("keep", [True, False])
def test_instructions(models: Path, scene: EditScene, keep: bool) -> None:
    editor = instruct(models, keep_foreground=keep, batch_size=2)
    assert editor.open(scene) == {0, 1}
    plans = [editor.plan(task(scene, row)) for row in range(3)]
    together = [image(made) for made in editor.edit(plans)]
    assert all((image(editor.edit([p])[0]) == made).all() for p, made in zip(plans, together, strict=True))
    mask = FileMasks(scene.workspace.root).mask(task(scene, 0).item, plans[0].source, b"")
    core, outside = mask.alpha == 1, mask.alpha == 0
    assert (plans[0].mask is not None) == keep
    assert (together[0][core] == plans[0].source[core]).all() == keep
    assert (np.abs(together[0].astype(int) - plans[0].source).max(axis=2) > 8)[outside].mean() > 0.9


def test_instructions_need_no_mask(models: Path, scene: EditScene) -> None:
    bare = dataclasses.replace(scene, masks=NoMasks())
    editor = instruct(models, image_guidance=1.2, prompts={"brown": "make it sand"})
    assert editor.open(bare) == {1}
    assert image(editor.edit([editor.plan(task(scene, 0))])[0]).any()
    with pytest.raises(DataError, match="needs masks"):
        inpaint(models).open(bare)


def test_items_that_cannot_be_edited_are_rejected(painter: InpaintEditor, scene: EditScene) -> None:
    good = task(scene, 0).item
    for item, reason in (
        ({**good, "path": "data/none.png"}, "image cannot be read"),
        ({**good, "path": good["mask_path"], "mask_path": "data/none.png"}, "mask cannot be read"),
    ):
        with pytest.raises(EditRejectedError, match=reason):
            painter.plan(EditTask(item, 1, 0))
    full = Mask(np.ones((48, 48), np.float32), "full", "test")
    painter._scene = dataclasses.replace(scene, masks=OneMask(full))
    try:
        with pytest.raises(EditRejectedError, match="no background to paint"):
            painter.plan(task(scene, 0))
    finally:
        painter._scene = scene
    thin = painter.plan(task(scene, 0))
    alpha = np.full((48, 48), 0.4, np.float32)
    made = painter.edit([dataclasses.replace(thin, mask=Mask(alpha, "thin", "test")), thin])
    assert isinstance(made[0], EditRejectedError) and "thinner" in str(made[0])
    assert image(made[1]).any()


def test_pickled_weights_are_refused_unless_allowed(models: Path, scene: EditScene, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(models / "inpainting", folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"not safetensors.*got unet/\*\.bin.*allow_pickle: true") as caught:
        inpaint(tmp_path, "pickled").open(scene)
    assert "\n" not in str(caught.value)
    assert inpaint(tmp_path, "pickled", allow_pickle=True).open(scene) == {0, 1}
    with pytest.raises(ConfigError, match="single file must hold safetensors"):
        inpaint(tmp_path, "pickled/unet/diffusion_pytorch_model.bin").open(scene)


def test_code_in_a_model_folder_is_not_run(models: Path, scene: EditScene, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(models / "inpainting", folder)
    (folder / "pipeline.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ConfigError, match=r"brings its own code, which is not run: got pipeline\.py"):
        inpaint(tmp_path, "coded").open(scene)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "needs a diffusion model: got no option 'model'; pass a local folder"),
        ("./nowhere", r"no such model: got \./nowhere, expected a folder.*editor composite"),
        ("nowhere.safetensors", "no such model"),
        ("inpainting/unet", r"no diffusers pipeline.*model_index\.json in it"),
    ],
)
def test_a_missing_model_is_one_line(models: Path, scene: EditScene, model: str, message: str) -> None:
    at = dataclasses.replace(scene, root=models)
    editor = InpaintEditor(InpaintOptions(model=model, prompts={"brown": ("sand",)}))
    with pytest.raises(ConfigError, match=message) as caught:
        editor.open(at)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_an_unknown_hub_name_is_one_line_and_quick(
    scene: EditScene, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    import huggingface_hub

    asked = []

    def unreachable(*_: Any, timeout: float, **__: Any) -> None:
        asked.append(timeout)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    editor = inpaint(Path("nobody"), "no-such-inpainting", offline=offline)
    start = time.perf_counter()
    with pytest.raises(
        CfpairsError, match=r"nobody/no-such-inpainting cannot be loaded.*not in the cache"
    ) as caught:
        editor.open(scene)
    assert time.perf_counter() - start < 5 and asked == ([] if offline else [10.0])
    assert "\n" not in str(caught.value) and "editor composite" in str(caught.value)


def test_wrong_kinds_of_pipeline(models: Path, scene: EditScene) -> None:
    with pytest.raises(ConfigError, match=r"follows no instructions.*use it with editor inpaint"):
        instruct(models, "inpainting").open(scene)
    with pytest.raises(
        ConfigError, match="a StableDiffusionInstructPix2PixPipeline, cannot be loaded to inpaint"
    ):
        inpaint(models, "instruct").open(scene)
    with pytest.raises(ConfigError, match=r"takes no strength: got strength: 0.9"):
        instruct(models, strength=0.9).open(scene)
    with pytest.raises(ConfigError, match=r"a prompt is longer than the model reads: got 4. tokens"):
        inpaint(models, prompts={"brown": "x" * 44}).open(scene)


def test_prompts_belong_to_environments(models: Path, scene: EditScene) -> None:
    with pytest.raises(ConfigError, match="unknown environment: got 'gren', expected perhaps 'green'"):
        inpaint(models, prompts={"gren": "grass"}).open(scene)
    with pytest.raises(
        ConfigError, match=r"no environment has a prompt: got no option 'prompts'.*brown, green"
    ):
        inpaint(models, prompts={}).open(scene)
    assert inpaint(models, prompts={"green": "grass"}).open(scene) == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size: Input should be a multiple of 8"),
        ({"steps": 3, "strength": 0.2}, "strength 0.2 of 3 steps leaves none"),
        ({"prompts": {"brown": "a {colour} bar"}}, "unknown placeholder {colour}"),
        ({"prompts": {"brown": "{label.__class__}"}}, "unknown placeholder {label.__class__}"),
        ({"prompts": {"brown": "a { bar"}}, "for braces"),
        ({"prompts": {"brown": []}}, "'brown' has an empty list"),
        ({"prompts": {"brown": ["sand", " "]}}, "a prompt is empty"),
        ({"prompt": {"brown": "sand"}}, "unknown key 'prompt', expected perhaps 'prompts'"),
    ],
)
def test_wrong_options_are_one_line(models: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        inpaint(models, **options)
    assert "\n" not in str(caught.value)


def test_environments_may_be_numbers() -> None:
    assert parse_options(InpaintOptions, {"prompts": {0: "grass"}}, "x").prompts == {"0": ("grass",)}


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_precision("auto", "auto") == ("cpu", "fp32")
    assert choose_precision("cpu", "bf16") == ("cpu", "bf16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        choose_precision("auto", "fp16")
    with pytest.raises(CfpairsError, match="no NVIDIA GPU can be used here: got device cuda"):
        choose_precision("cuda", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, kind in (((9, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert choose_precision("auto", "auto") == ("cuda", kind)
        assert choose_precision("auto", "fp16") == ("cuda", "fp16")


def test_without_diffusers_the_extra_is_named(
    models: Path, scene: EditScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cfpairs\[edit\]'"):
        inpaint(models).open(scene)


def test_options_are_known_without_torch() -> None:
    code = (
        "import sys; from cfpairs.registry import resolve;"
        "[resolve('editors', n).Options() for n in ('inpaint', 'instruct')];"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digest_tells_models_apart(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "inpainting", folder)
    before = digest(folder)
    assert before == digest(models / "inpainting")
    (folder / "README.md").write_text("words")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    assert digest(folder) == before != digest(folder, "fp16")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = digest(folder)
    assert changed != before
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.011"))
    assert digest(folder) not in (before, changed)


@pytest.mark.parametrize("shape", [(48, 48), (60, 90), (90, 31), (500, 40), (7, 5), (1, 30)])
def test_a_frame_gives_back_what_it_was_given(shape: tuple[int, int]) -> None:
    down, across = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([255 * down / shape[0], 255 * across / shape[1], 0 * down], axis=2).astype(np.uint8)
    frame = Frame(*shape, 96)
    square = frame.image(pixels)
    back = frame.back(square)
    assert square.shape == (96, 96, 3) and back.shape == pixels.shape
    # Of an image that is much larger than the square a pixel in the square covers several.
    assert np.abs(back.astype(int) - pixels).max() <= 12 * max(1, max(shape) / 96)
    share = frame.share(np.ones(shape, np.float32))
    assert share.sum() == frame.inner[0] * frame.inner[1] and 96 in frame.inner


def test_the_example_configuration_is_right() -> None:
    config = read_config(Path(__file__).parents[2] / "configs" / "edit-inpaint.yaml")
    chosen = config.pairs[0].options
    options = parse_options(InpaintOptions, chosen["editor_options"], "editor")
    assert chosen["editor"] == "inpaint" and set(options.prompts) == {"land", "water"}
