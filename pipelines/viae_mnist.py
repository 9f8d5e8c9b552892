"""Part what an image shows from its environment with a variational invariant autoencoder.

Paper: Norman, Meir (2025), Unsupervised Invariant Risk Minimization, table 1 and figures 4 and 6.
Data: four IDX files of grey images in ten classes, MNIST's as in the paper or Fashion-MNIST's. SMNIST adds a
white square in a corner that tells the environment, SCMNIST draws the image in one colour channel. Labels are
used by the classifiers alone.
Cost, expected result and all settings: configs/viae-mnist.yaml.
Run: python pipelines/viae_mnist.py --root DIR [--out DIR] [--runs 10] [--quick] [--validate]
Writes results.csv, figure-4.png and figure-6.png; a run that is there is not made again, one that was broken
off goes on.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from paper_tables import as_csv, as_image, config_of, exit_status, finish, read_settings, study_parser
from pydantic import PositiveFloat, PositiveInt
from sklearn.exceptions import ConvergenceWarning

from cfpairs import CfpairsError, ERMClassifier
from cfpairs.config import Strict
from cfpairs.datasets.idx import find_parts, read_part
from cfpairs.pairs.transfer.options import ModelOptions
from cfpairs.tables import fingerprint, write_bytes

if TYPE_CHECKING:
    from cfpairs.pairs.transfer.viae import VIAE

Pixels = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.float64]
Row = dict[str, Any]

CONFIG = config_of("viae-mnist")
QUICK = {"rows": 2000, "test_rows": 1000, "epochs": 2, "width": 8, "hidden": 32, "inv_dim": 16}
KNOWN = {(7, 2, 1, 0, 4, 1, 4, 9): "MNIST", (9, 2, 1, 1, 6, 1, 4, 6): "Fashion-MNIST"}
"""First labels of the test part of two sets of IDX files."""

TASKS = {
    "label_from_inv": ("label from z_inv", "0.845 (0.050)", "0.832 (0.072)", "at least .85"),
    "label_from_env": ("label from z_e", "0.362 (0.041)", "0.345 (0.045)", ""),
    "env_from_inv": ("environment from z_inv", "0.556 (0.066)", "0.583 (0.055)", "at most .60"),
    "env_from_env": ("environment from z_e", "1.0 (0)", "1.0 (0)", "at least .99"),
    "label_from_linear": ("label from principal components", "", "", ""),
    "env_by_net": ("environment from z_inv by a network", "", "", ""),
    "moved_env": ("moved images told as the target environment", "", "", ""),
    "moved_label": ("label from principal components of moved images", "", "", ""),
}
"""What each classifier reads and tells, the paper's accuracy (sd) on SMNIST and SCMNIST, and our target.

The principal components of the images, as many as z_inv has, are a linear encoder that keeps all it can: what
the same classifier makes of them says how hard the images are, and what it and one of the environment make of
images that are moved says what becomes of them. The network has one hidden layer: linear classifiers do not
see all that z_inv may hold of the environment.
"""

LINEAR = (
    "label_from_inv",
    "label_from_env",
    "env_from_inv",
    "env_from_env",
    "label_from_linear",
    "env_from_linear",
)
"""Linear classifiers; the last one is for moved images alone."""

NETWORK_ROWS = 20_000
"""Training images that the network learns from."""

VALIDATION = 10_000
"""Training images at the end of the file that ``--validate`` keeps for choosing settings."""

TITLES = {"smnist": "SMNIST", "scmnist": "SCMNIST"}


class Study(Strict):
    """Settings; what they mean is said in the configuration file."""

    sets: tuple[Literal["smnist", "scmnist"], ...]
    rows: PositiveInt
    test_rows: PositiveInt
    square: PositiveInt
    inv_dim: PositiveInt
    env_dim: PositiveInt
    width: PositiveInt
    hidden: PositiveInt
    distance: PositiveFloat
    invariance: float
    divergence: PositiveFloat
    epochs: PositiveInt
    batch: PositiveInt
    rate: PositiveFloat
    C: PositiveFloat

    @property
    def model(self) -> ModelOptions:
        """The settings of the autoencoder; groups are as they are, for labels are not looked at."""
        names = set(ModelOptions.model_fields) & set(Study.model_fields)
        return ModelOptions(**{name: getattr(self, name) for name in names}, balance=False)


@dataclass(frozen=True)
class Grey:
    """Images (n, height, width) with values in 0..1 and labels of both parts, and what they are."""

    name: str
    train: Pixels
    train_labels: Ints
    test: Pixels
    test_labels: Ints


def read_grey(root: Path, study: Study, validate: bool = False) -> Grey:
    """The first images of the IDX files in `root`; `validate` takes the last training images for the test."""
    parts = {name: read_part(part) for name, part in find_parts(root).items()}
    name = KNOWN.get(tuple(parts["t10k"][1][:8].tolist()), f"IDX files of {root}")
    if validate:
        images, labels = parts["train"]
        last = min(VALIDATION, len(images) // 6)
        parts = {"train": (images[:-last], labels[:-last]), "t10k": (images[-last:], labels[-last:])}
        name += ", held-out training images"
    found: list[Any] = [name]
    for part, n in (("train", study.rows), ("t10k", study.test_rows)):
        images, labels = parts[part]
        found += [images[:n].astype(np.float32) / np.float32(255), labels[:n].astype(np.int64)]
    if found[1].shape[1] <= study.square:
        raise CfpairsError("the square covers the images", got=study.square, expected="less than their side")
    return Grey(*found)


def draw_world(kind: str, grey: Pixels, env: Ints, square: int) -> Pixels:
    """Images (n, channels, height, width) in environments 0, 1 (training) and 2, 3 (unseen)."""
    if kind == "scmnist":
        coloured = np.zeros((len(grey), 3, *grey.shape[1:]), np.float32)
        coloured[np.arange(len(grey)), env] = grey
        return coloured
    marked = grey.copy()
    corners = ((0, 0), (1, 1), (0, 1), (1, 0))
    for number, (low, right) in enumerate(corners):
        rows = slice(-square, None) if low else slice(square)
        columns = slice(-square, None) if right else slice(square)
        own = np.flatnonzero(env == number)
        marked[own, rows, columns] = 1.0
    return marked[:, None]


def halves(n: int, seed: int) -> Ints:
    """Environment 0 or 1 of each image: half of them each, drawn by the seed."""
    return np.random.default_rng([seed, n]).permutation(np.arange(n) % 2)


def run_once(kind: str, grey: Grey, study: Study, run: int, out: Path) -> Row:
    """Train the autoencoder and fit the classifiers; what is on disk for these settings is taken."""
    settings = study.model_dump(mode="json", exclude={"sets"})
    key = fingerprint(3, kind, run, settings, grey.name, len(grey.train))
    file = out / "runs" / f"{kind}-{run}.json"
    if file.is_file():
        found: Row = json.loads(file.read_text())
        if found["key"] == key:
            return found
    print(f"{TITLES[kind]}, run {run + 1}: an autoencoder and its classifiers", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    model = train(kind, grey, study, run, out)
    row: Row = {"set": kind, "run": run, "data": grey.name, **accuracies(kind, model, grey, study, run)}
    row |= {"seconds": time.perf_counter() - begun, "key": key}
    write_bytes(file, json.dumps(row, indent=1).encode())
    return row


def accuracies(kind: str, model: VIAE, grey: Grey, study: Study, run: int) -> dict[str, float]:
    """What the classifiers tell of the test images, as `TASKS` names it."""
    truth: dict[tuple[str, str], Ints] = {}
    codes: dict[tuple[str, str], Codes] = {}
    worlds = {}
    for part in ("train", "test"):
        images = getattr(grey, part)
        env = halves(len(images), run)
        truth["env", part], truth["label", part] = env, getattr(grey, f"{part}_labels")
        worlds[part] = draw_world(kind, images, env, study.square)
        codes["inv", part], codes["env", part] = encode(model, worlds[part], env)
    linear = components(worlds["train"], study.inv_dim)
    codes |= {("linear", part): linear(images) for part, images in worlds.items()}
    found, probes = {}, {}
    for name in LINEAR:
        what, _, source = name.split("_")
        probe = ERMClassifier(C=study.C, tol=1e-4).fit(codes[source, "train"], truth[what, "train"])
        found[name] = float((probe.predict(codes[source, "test"]) == truth[what, "test"]).mean())
        probes[name] = probe
    found["env_by_net"] = network(codes, truth)
    env = truth["env", "test"]
    moved = linear(moved_images(model, worlds["test"], env, run))
    found["moved_env"] = float((probes["env_from_linear"].predict(moved) == 1 - env).mean())
    found["moved_label"] = float(
        (probes["label_from_linear"].predict(moved) == truth["label", "test"]).mean()
    )
    return found


def components(train: Pixels, dim: int) -> Callable[[Pixels], Codes]:
    """Principal components of the training images, `dim` of them at most: what makes codes of images."""
    from sklearn.decomposition import PCA

    flat = train.reshape(len(train), -1)
    found = PCA(min(dim, *flat.shape), svd_solver="covariance_eigh").fit(flat)
    return lambda images: np.asarray(found.transform(images.reshape(len(images), -1)), np.float64)


def network(codes: dict[tuple[str, str], Codes], truth: dict[tuple[str, str], Ints]) -> float:
    """How often a network of one hidden layer tells the environment of test images from z_inv."""
    from sklearn.neural_network import MLPClassifier

    some = slice(NETWORK_ROWS)
    net = MLPClassifier((64,), early_stopping=True, n_iter_no_change=3, max_iter=30, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(codes["inv", "train"][some], truth["env", "train"][some])
    return float(net.score(codes["inv", "test"], truth["env", "test"]))


def moved_images(model: VIAE, x: Pixels, env: Ints, seed: int) -> Pixels:
    """The images in the other environment, z_e drawn from its prior."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(x), 1000):
            own = torch.from_numpy(env[start : start + 1000])
            noise = torch.randn(len(own), model.env_dim, generator=generator)
            parts.append(model.transfer(torch.from_numpy(x[start : start + 1000]), own, 1 - own, noise)[0])
    return np.asarray(torch.cat(parts))


def train(kind: str, grey: Grey, study: Study, run: int, out: Path) -> VIAE:
    """The autoencoder of one run; a state on disk of the same settings is gone on with."""
    from cfpairs.pairs.transfer.training import train_viae

    env = halves(len(grey.train), run)
    x = draw_world(kind, grey.train, env, study.square)
    return train_viae(x, env, study.model, run, state=out / "runs" / f"{kind}-{run}.pt")


def encode(model: VIAE, x: Pixels, env: Ints) -> tuple[Codes, Codes]:
    """Means of z_inv and z_e."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(x), 1000):
            some = slice(start, start + 1000)
            codes = model.encode(torch.from_numpy(x[some]), torch.from_numpy(env[some]))
            parts.append((codes.inv.numpy(), codes.env.numpy()))
    inv, own = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return inv, own


def grid_of_samples(model: VIAE, columns: int, blocks: int) -> list[tuple[str, Pixels]]:
    """Rows of figure 4: for each block one z_inv, in either environment, with `columns` draws of z_e."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = []
    for block in range(blocks):
        z = torch.randn(1, model.inv_dim, generator=generator).expand(columns, -1)
        noise = torch.randn(columns, model.env_dim, generator=generator)
        for env in (0, 1):
            with torch.inference_mode():
                drawn = model.sample(z, torch.full((columns,), env), noise)
            rows.append((f"z_inv {block + 1}, e = {env + 1}", drawn.numpy()))
    return rows


def grid_of_transfers(
    kind: str, model: VIAE, grey: Grey, square: int, columns: int
) -> list[tuple[str, Pixels]]:
    """Rows of figure 6: test images and what they become, from seen environments and from an unseen one."""
    import torch

    from cfpairs.pairs.transfer.viae import UNSEEN

    rows, images = [], grey.test[:columns]
    noise = torch.randn(columns, model.env_dim, generator=torch.Generator().manual_seed(1))
    for source, target in ((0, 1), (1, 0), (2, 0)):
        x = draw_world(kind, images, np.full(columns, source), square)
        env = torch.full((columns,), source if source < 2 else UNSEEN)
        with torch.inference_mode():
            moved, _ = model.transfer(torch.from_numpy(x), env, torch.full((columns,), target), noise)
        said = f"e = {source + 1}" + (" (unseen)" if source == 2 else "")
        rows += [(said, x), (f"moved to e = {target + 1}", moved.numpy())]
    return rows


def draw(title: str, grids: dict[str, list[tuple[str, Pixels]]]) -> bytes:
    """Grids of images side by side as PNG, a caption a row."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4 * len(grids), 5.2), layout="constrained")
        figure.suptitle(title, fontsize=11)
        for axes, (name, rows) in zip(
            figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True
        ):
            side = rows[0][1].shape[2]
            strips = [np.concatenate([_colour(image) for image in images], axis=1) for _, images in rows]
            axes.imshow(np.concatenate(strips, axis=0), interpolation="nearest", vmin=0, vmax=1)
            axes.set_yticks([side * (i + 0.5) for i in range(len(rows))], [said for said, _ in rows])
            axes.set_xticks([])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(name)
        return as_image(figure, "png")


def _colour(image: Pixels) -> Pixels:
    framed = np.pad(image, ((0, 0), (1, 0), (1, 0)), constant_values=1.0)[:, :-1, :-1]
    return np.repeat(framed, 3 // len(framed), axis=0).transpose(1, 2, 0).clip(0, 1)


def comparison(rows: Sequence[Row], grey: Grey, study: Study) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    lines = []
    for kind in study.sets:
        own = [row for row in rows if row["set"] == kind]
        for name, (said, smnist, scmnist, target) in TASKS.items():
            values = np.array([row[name] for row in own])
            paper = (smnist if kind == "smnist" else scmnist) + (f"; target {target}" if target else "")
            found = f"{values.mean():.3f} ({values.std():.3f})"
            data = f"{grey.name}, {len(grey.train)} images, {len(own)} run{'s' * (len(own) > 1)}"
            lines.append((f"{TITLES[kind]}: {said}", paper, found, data))
    return lines


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    parser = study_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work/viae-mnist"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="few images, a small model, two epochs")
    parser.add_argument(
        "--validate", action="store_true", help="test on the last training images, to choose settings by"
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    args = parser.parse_args(argv)
    study = read_settings(Study, args.config, **(QUICK if args.quick else {}))
    if args.runs < 1:
        raise CfpairsError("runs cannot be used", got=args.runs, expected="1 or more")
    grey = read_grey(args.root, study, args.validate)
    rows = [run_once(kind, grey, study, run, args.out) for run in range(args.runs) for kind in study.sets]
    models = {TITLES[kind]: train(kind, grey, study, 0, args.out) for kind in study.sets}
    kinds = {TITLES[kind]: kind for kind in study.sets}
    samples = {name: grid_of_samples(model, 8, 3) for name, model in models.items()}
    moved = {
        name: grid_of_transfers(kinds[name], model, grey, study.square, 8) for name, model in models.items()
    }
    kept = ("set", "run", "data", *TASKS, "seconds")
    figures = {
        "results.csv": as_csv([{name: row[name] for name in kept} for row in rows]),
        "figure-4.png": draw(f"One z_inv, z_e from each environment's prior ({grey.name})", samples),
        "figure-6.png": draw(f"Test images moved to another environment ({grey.name})", moved),
    }
    finish(args.out, comparison(rows, grey, study), figures)


if __name__ == "__main__":
    raise SystemExit(main())
