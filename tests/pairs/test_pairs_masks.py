"""Masks: from files, alpha channels, GrabCut and rembg; and files that cannot be decoded safely."""

from __future__ import annotations

import io
import struct
import sys
import types
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import Strict
from cfpairs.embedding.images import UnusableImageError, decode_rgb
from cfpairs.errors import CfpairsError, ConfigError, DataError, MissingDependencyError, UnknownNameError
from cfpairs.pairs.edit.base import EditRejectedError, Mask, MaskSource
from cfpairs.pairs.edit.maskers.files import AlphaMasker, ColumnMasker
from cfpairs.pairs.edit.maskers.grabcut import GrabCutMasker, GrabCutOptions, guided_filter
from cfpairs.pairs.edit.maskers.rembg import RembgMasker
from cfpairs.pairs.edit.masks import DEFAULT_MASKERS, check_share, decode_mask, open_masks
from cfpairs.pairs.edit.pixels import LONGEST_ASPECT, MAX_PIXELS, decode_image, read_file
from cfpairs.registry import resolve
from cfpairs.workspace import Workspace

SIZE = 40


def stored(pixels: NDArray[Any] | Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **more)
    return file.getvalue()


def square() -> NDArray[np.uint8]:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:30, 12:28] = 255
    return mask


def photo(name: str, side: int = 112) -> NDArray[np.uint8]:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return np.asarray(image.convert("RGB").resize((side, side)))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "data" / "images" / "a").mkdir(parents=True)
    return Workspace(tmp_path)


def item(path: str = "data/images/a/x.png", mask: str | None = None) -> dict[str, Any]:
    return {"item_id": "x", "path": path, "mask_path": mask}


def masks_of(place: Workspace, *names: str, **options: Mapping[str, Any]) -> MaskSource:
    return open_masks(names, options, workspace=place, root=place.root / "data")


def found(masks: MaskSource, row: Mapping[str, Any], image: NDArray[np.uint8], content: bytes = b"") -> Mask:
    return masks.mask(row, image, content or stored(image))


GREY = np.full((SIZE, SIZE, 3), 120, np.uint8)


# Where masks come from


def test_the_first_usable_mask_wins(place: Workspace) -> None:
    image = np.dstack([GREY, 255 - square()])
    (place.root / "m.png").write_bytes(stored(square()))
    masks = masks_of(place, "column", "alpha")
    listed = found(masks, item(mask="m.png"), GREY, stored(image))
    assert (listed.source, listed.path) == ("column", "m.png")
    assert (listed.alpha == square() / 255).all()
    own = found(masks, item(), GREY, stored(image))
    assert (own.source, own.path) == ("alpha", None) and (own.alpha == 1 - square() / 255).all()
    # A listed mask that cannot be used gives way to the next masker.
    (place.root / "m.png").write_bytes(stored(np.zeros((SIZE, SIZE), np.uint8)))
    assert found(masks, item(mask="m.png"), GREY, stored(image)).source == "alpha"


def test_every_reason_is_given_if_no_masker_finds_one(place: Workspace) -> None:
    (place.root / "m.png").write_bytes(stored(np.zeros((SIZE, SIZE), np.uint8)))
    with pytest.raises(EditRejectedError, match=r"^mask is empty; the image has no alpha channel$"):
        found(masks_of(place, "column", "alpha"), item(mask="m.png"), GREY)
    none = masks_of(place, "column")
    assert not none.has(item()) and none.has(item(mask="m.png"))
    with pytest.raises(EditRejectedError, match=r"^the item has no mask$"):
        found(none, item(), GREY)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (np.zeros((SIZE, SIZE), np.uint8), "mask is empty"),
        (np.full((SIZE, SIZE), 255, np.uint8), "mask is full"),
        (np.full((SIZE, SIZE + 1), 255, np.uint8), "mask of the wrong size: 41 x 40, image 40 x 40"),
    ],
)
def test_masks_that_cannot_be_used(place: Workspace, levels: NDArray[np.uint8], reason: str) -> None:
    (place.root / "m.png").write_bytes(stored(levels))
    with pytest.raises(EditRejectedError, match=f"^{reason}$"):
        found(masks_of(place, "column"), item(mask="m.png"), GREY)


def test_masks_that_cannot_be_read(place: Workspace) -> None:
    masks = masks_of(place, "column")
    (place.root / "folder").mkdir()
    (place.root / "text").write_text("no mask")
    for path, reason in (
        ("absent.png", "mask cannot be read: No such file"),
        ("folder", "mask cannot be read: no regular file"),
        ("text", "mask cannot be decoded: no image"),
        ("a\0b", "mask cannot be read"),
    ):
        with pytest.raises(EditRejectedError, match=reason):
            found(masks, item(mask=path), GREY)


def test_limits_of_the_share() -> None:
    alpha = square().astype(np.float32) / 255
    share = float(alpha.mean())
    check_share(alpha, share - 0.01, share + 0.01)
    with pytest.raises(EditRejectedError, match="marks too little"):
        check_share(alpha, share + 0.01, 0.9)
    with pytest.raises(EditRejectedError, match="marks too much"):
        check_share(alpha, 0.01, share - 0.01)


def test_mask_levels_are_read_however_they_are_stored() -> None:
    expected = square().astype(np.float32) / 255
    shape = square() > 0
    palette = Image.new("P", (SIZE, SIZE))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.putdata(shape.astype(np.uint8).ravel().tolist())
    for form in (
        square(),
        shape,
        shape.astype(np.uint8),
        shape.astype(np.uint16) * 65535,
        np.dstack([square()] * 3),
        np.dstack([GREY, square()]),
        palette,
    ):
        assert (decode_mask(stored(form)) == expected).all()
    votes = np.repeat(np.arange(6, dtype=np.uint8) * 51, SIZE).reshape(6, SIZE)
    assert decode_mask(stored(votes))[:, 0] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


# Files


@pytest.mark.parametrize("inside", ["images/a/x.png", "a/x.png", "x.png", "a/x.jpg"])
def test_a_folder_of_masks_goes_by_the_images_path(place: Workspace, inside: str) -> None:
    file = place.root / "data" / "masks" / inside
    file.parent.mkdir(parents=True)
    kind = "JPEG" if inside.endswith("jpg") else "PNG"
    file.write_bytes(stored(square(), kind))
    (place.root / "m.png").write_bytes(stored(255 - square()))
    masks = masks_of(place, "column", column={"folder": "masks"})
    mask = found(masks, item(mask="m.png"), GREY)
    assert mask.path == f"data/masks/{inside}"
    assert np.abs(mask.alpha - square() / 255).max() < 0.2
    # An image that the folder has no mask for keeps its own.
    assert found(masks, item("data/images/a/y.png", "m.png"), GREY).path == "m.png"
    assert not masks.has(item("data/images/a/y.png"))


def test_the_longer_path_goes_before_the_shorter(place: Workspace) -> None:
    for name, levels in (("a/x.png", square()), ("x.png", 255 - square())):
        file = place.root / "data" / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stored(levels))
    masks = masks_of(place, "column", column={"folder": "masks"})
    assert found(masks, item(), GREY).path == "data/masks/a/x.png"
    assert found(masks, item("data/images/b/x.png"), GREY).path == "data/masks/x.png"


def test_masks_have_the_key_of_what_they_depend_on(place: Workspace) -> None:
    file = place.root / "m.png"
    keys = set()
    for levels in (square(), 255 - square()):
        file.write_bytes(stored(levels))
        keys.add(found(masks_of(place, "column"), item(mask="m.png"), GREY).key)
    image = photo("astronaut.png", 64)
    for iterations in (1, 2):
        masks = masks_of(place, "grabcut", grabcut={"iterations": iterations, "smallest": 0})
        keys.add(found(masks, item(), image).key)
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (Image.fromarray(np.dstack([GREY, square()])), "PNG"),
        (Image.merge("LA", [Image.new("L", (SIZE, SIZE), 90), Image.fromarray(square())]), "PNG"),
        (Image.fromarray(np.dstack([GREY, square()])), "WEBP"),
    ],
)
def test_alpha_channels(place: Workspace, pixels: Image.Image, kind: str) -> None:
    row = item(f"data/images/a/x.{kind.lower()}")
    mask = found(masks_of(place, "alpha"), row, GREY, stored(pixels, kind, lossless=True))
    assert (mask.alpha == square() / 255).all()


def test_a_palette_with_a_transparent_colour_has_an_alpha_channel(place: Workspace) -> None:
    image = Image.new("P", (SIZE, SIZE))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putdata((square() > 0).astype(np.uint8).ravel().tolist())
    mask = found(masks_of(place, "alpha"), item(), GREY, stored(image, transparency=0))
    assert (mask.alpha == square() / 255).all()


def test_an_image_without_transparency_has_no_alpha_mask(place: Workspace) -> None:
    masks = masks_of(place, "alpha")
    assert not masks.has(item("data/images/a/x.jpg")) and masks.has(item())
    with pytest.raises(EditRejectedError, match="no alpha channel"):
        found(masks, item(), GREY)
    with pytest.raises(EditRejectedError, match="opaque everywhere"):
        found(masks, item(), GREY, stored(np.dstack([GREY, np.full((SIZE, SIZE), 255, np.uint8)])))


# GrabCut


def painted_square(side: int = 96, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    inside = np.zeros((side, side), bool)
    inside[side // 4 : 3 * side // 4, side // 3 : 2 * side // 3] = True
    image = np.where(inside[..., None], [200, 60, 40], [60, 120, 70]) + rng.normal(0, 12, (side, side, 3))
    return np.clip(image, 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("side", [96, 300])
def test_grabcut_finds_what_is_unlike_the_border(place: Workspace, side: int) -> None:
    image, inside = painted_square(side)
    mask = found(masks_of(place, "grabcut"), item(), image)
    assert mask.source == "grabcut" and mask.alpha.shape == inside.shape
    assert 0 <= mask.alpha.min() and mask.alpha.max() <= 1
    both = ((mask.alpha > 0.5) & inside).sum() / ((mask.alpha > 0.5) | inside).sum()
    assert both > 0.97
    # Positive control: the box itself, which any cut starts from, is no such mask.
    assert inside.sum() / (0.88 * side) ** 2 < 0.3


def test_grabcut_gives_the_same_mask_in_any_thread_whatever_was_drawn_before(place: Workspace) -> None:
    masks = masks_of(place, "grabcut")
    images = [photo(name, 96) for name in ("astronaut.png", "chelsea.png", "coffee.png")] * 2

    def one(number: int) -> bytes:
        cv2.setRNGSeed(number)
        return found(masks, item(), images[number]).alpha.tobytes()

    alone = [one(number) for number in range(6)]
    assert alone[:3] == alone[3:] and len(set(alone)) == 3
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(one, range(6))) == alone


def test_grabcut_says_when_there_is_nothing_to_cut(place: Workspace) -> None:
    masks = masks_of(place, "grabcut", grabcut={"centre": 0})
    with pytest.raises(EditRejectedError, match="grabcut: "):
        found(masks, item(), GREY)
    with pytest.raises(EditRejectedError, match="too small"):
        found(masks, item(), GREY[:10])


def test_grabcut_keeps_large_parts_and_drops_specks(place: Workspace) -> None:
    cutter = GrabCutMasker(GrabCutOptions(), workspace=place, root=None)
    cut = np.zeros((60, 60), np.uint8)
    cut[5:35, 5:35] = 1
    cut[40:55, 40:55] = 1
    cut[50:54, 5:9] = 1
    cut[20:22, 20:22] = 0
    kept = cutter._main_parts(cut)
    assert kept[10, 10] and kept[45, 45] and kept[21, 21] and not kept[52, 7]


def test_a_guided_filter_brings_a_coarse_edge_to_that_of_the_guide() -> None:
    guide = np.zeros((64, 64), np.float32)
    guide[:, 32:] = 1
    coarse = np.zeros((64, 64), np.float32)
    coarse[:, 30:] = 1
    fine = guided_filter(guide, coarse, 6, 1e-4)
    steps = np.diff(fine[32])
    assert steps[31] > 0.5 and steps[29] < 0.1  # from column 31 to 32, as in the guide
    flat = guided_filter(np.zeros((64, 64), np.float32), coarse, 6, 1e-4)
    assert np.abs(np.diff(flat[32])).max() < 0.2


# rembg


class FakeRembg(types.ModuleType):
    """As rembg 2 is called: ``new_session(name)``, ``remove(array, session=..., only_mask=True)``."""

    def __init__(self, mask: NDArray[Any], fault: Exception | None = None) -> None:
        super().__init__("rembg")
        self.made: list[str] = []
        self.levels, self.fault = mask, fault

    def new_session(self, model_name: str = "u2net", *args: Any, **kwargs: Any) -> str:
        if model_name == "no-such":
            raise ValueError("No session class found for model 'no-such'")
        self.made.append(model_name)
        return f"session of {model_name}"

    def remove(
        self,
        data: NDArray[np.uint8],
        alpha_matting: bool = False,
        session: object = None,
        only_mask: bool = False,
    ) -> NDArray[Any]:
        assert isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[2] == 3
        assert session == "session of u2net" and only_mask and not alpha_matting
        if self.fault is not None:
            raise self.fault
        return self.levels


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "u2net.onnx").write_bytes(b"weights")
    monkeypatch.setenv("U2NET_HOME", str(folder))
    return folder


def test_rembg_masks(place: Workspace, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRembg(square())
    monkeypatch.setitem(sys.modules, "rembg", fake)
    masks = masks_of(place, "rembg")
    for _ in range(2):
        mask = found(masks, item(), GREY)
        assert mask.source == "rembg" and (mask.alpha == square() / 255).all()
    assert fake.made == ["u2net"]


@pytest.mark.parametrize(
    ("levels", "fault", "reason"),
    [
        (square(), RuntimeError("no\nmemory"), "rembg failed: no memory"),
        (np.zeros((SIZE, SIZE), np.uint8), None, "mask is empty"),
        (np.vstack([square()] * 3), None, "mask of the wrong size: 40 x 120"),
        (np.full((SIZE, SIZE), np.nan), None, "no numbers"),
    ],
)
def test_rembg_that_fails_on_an_image_rejects_it(
    place: Workspace,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    levels: NDArray[Any],
    fault: Exception | None,
    reason: str,
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", FakeRembg(levels, fault))
    with pytest.raises(EditRejectedError, match=reason):
        found(masks_of(place, "rembg"), item(), GREY)


def test_a_missing_rembg_or_model_is_one_line_that_says_what_to_do(
    place: Workspace, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cfpairs\[masks\]'"):
        masks_of(place, "rembg")
    fake = FakeRembg(square())
    monkeypatch.setitem(sys.modules, "rembg", fake)
    with pytest.raises(
        DataError, match=r"'isnet' is not on this machine.*isnet\.onnx.*U2NET_HOME.*download: true"
    ):
        masks_of(place, "rembg", rembg={"model": "isnet"})
    assert not fake.made
    with pytest.raises(DataError, match="cannot load the model 'no-such'") as caught:
        masks_of(place, "rembg", rembg={"model": "no-such", "download": True})
    assert "\n" not in str(caught.value)


# Settings


@pytest.mark.parametrize(
    ("names", "options", "error", "words"),
    [
        ((), {}, ConfigError, "needs names"),
        (("column", "column"), {}, ConfigError, "each once"),
        (("grabcutt",), {}, UnknownNameError, "perhaps 'grabcut'"),
        (("column",), {"grabcut": {}}, ConfigError, "not used"),
        (("grabcut",), {"grabcut": {"inset": 0.7}}, ConfigError, "masker 'grabcut': inset"),
        (("grabcut",), {"grabcut": {"itterations": 2}}, ConfigError, "perhaps 'iterations'"),
        (("column",), {"column": {"folder": "../x"}}, ConfigError, "leaves the data set's folder"),
        (("column",), {"column": {"folder": "absent"}}, DataError, "is no folder"),
        (("column",), {"column": {"folder": "images"}}, DataError, "has no image"),
    ],
)
def test_bad_settings_are_one_line(
    place: Workspace, names: tuple[str, ...], options: Any, error: type[CfpairsError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        open_masks(names, options, workspace=place, root=place.root / "data")
    assert "\n" not in str(caught.value)


def test_names(place: Workspace) -> None:
    assert [resolve("maskers", name) for name in ("column", "alpha", "grabcut", "rembg")] == [
        ColumnMasker,
        AlphaMasker,
        GrabCutMasker,
        RembgMasker,
    ]
    for name in ("column", "alpha", "grabcut", "rembg"):
        with pytest.raises(ConfigError, match="wrong options"):
            resolve("maskers", name)(Strict(), workspace=place, root=None)
    assert masks_of(place, *DEFAULT_MASKERS).has(item())


# Decoding


def bomb(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    body = zlib.compress(b"\0" * 1000)
    data = b"IDAT" + body
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (chunk, data, b"IEND")
    )


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (10_000, 9_000, f"image has more than {MAX_PIXELS} pixels"),  # Pillow only warns
        (50_000, 50_000, f"image has more than {MAX_PIXELS} pixels"),
        (LONGEST_ASPECT * 10 + 1, 10, "more than 250 to 1"),
    ],
)
def test_huge_images_are_refused_before_they_are_decoded(width: int, height: int, reason: str) -> None:
    with pytest.raises(EditRejectedError, match=reason):
        decode_image(bomb(width, height), "image")
    with pytest.raises(EditRejectedError, match="cannot be decoded"):
        decode_image(bomb(100, 100), "image")


def test_the_limit_is_that_of_the_encoders() -> None:
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def turned(image: NDArray[np.uint8], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(image, "JPEG", exif=exif, quality=95)


def sixteen_bit() -> bytes:
    return stored((np.arange(SIZE * SIZE, dtype=np.uint16) * 40).reshape(SIZE, SIZE))


PALETTE = Image.fromarray(photo("coffee.png", SIZE)).quantize(16)
FORMS: dict[str, Callable[[], bytes]] = {
    "rgb": lambda: stored(photo("coffee.png", SIZE)),
    "grey": lambda: stored(square()),
    "one bit": lambda: stored(square() > 0),
    "sixteen bit": sixteen_bit,
    "palette": lambda: stored(PALETTE),
    "palette with a transparent colour": lambda: stored(PALETTE, transparency=3),
    "palette with transparent shades": lambda: stored(PALETTE, transparency=bytes(range(0, 160, 10))),
    "alpha": lambda: stored(np.dstack([photo("coffee.png", SIZE), square()])),
    "cmyk": lambda: stored(Image.fromarray(photo("coffee.png", SIZE)).convert("CMYK"), "JPEG"),
    **{f"turned {n}": lambda n=n: turned(photo("coffee.png", SIZE)[:24], n) for n in (3, 6, 8)},  # type: ignore[misc]
    "animation": lambda: stored(
        Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_editors_see_what_encoders_see(form: str) -> None:
    content = FORMS[form]()
    assert (decode_image(content, "image") == np.asarray(decode_rgb(content))).all()


def test_a_mask_is_turned_as_its_image_is() -> None:
    upright = np.zeros((24, SIZE), np.uint8)
    upright[:12] = 255
    mask = decode_mask(turned(upright, 6))
    assert mask.shape == (SIZE, 24) and mask[:, -6:].min() > 0.9 and mask[:, :6].max() < 0.1


def test_what_encoders_refuse_editors_refuse_and_in_the_same_words_each_time() -> None:
    whole = stored(photo("coffee.png", SIZE))
    deep = stored(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    for content in (b"", b"text", whole[:100], whole[:-400], deep, whole[:50] + b"\0" * 90 + whole[140:]):
        with pytest.raises(UnusableImageError):
            decode_rgb(content)
        reasons = set()
        for _ in range(2):
            with pytest.raises(EditRejectedError, match=r"^image ") as caught:
                decode_image(content, "image")
            reasons.add(str(caught.value))
        assert len(reasons) == 1 and "\n" not in reasons.pop()


def test_threads_that_decode_leave_the_warning_filters_as_they_were(recwarn: pytest.WarningsRecorder) -> None:
    before = list(warnings.filters)
    contents = [bomb(10_000, 9_000), FORMS["palette with transparent shades"]()] * 20

    def one(content: bytes) -> None:
        try:
            decode_image(content, "image")
        except EditRejectedError:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, contents))
    assert warnings.filters == before and not recwarn.list


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "absent"):
        with pytest.raises(EditRejectedError, match="image cannot be read"):
            read_file(tmp_path / name, "image")
