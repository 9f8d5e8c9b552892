"""Fine-tuning of a whole network on a workspace's images, with or without the constraint on its pairs."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from workspace_images import Items, World

from cfpairs import CfpairsError, evaluate
from cfpairs.config import EncoderConfig
from cfpairs.encoders.lite import PREPROCESSING, LiteEncoder
from cfpairs.encoders.weights import read_state_dict
from cfpairs.tables import write_bytes

Row = dict[str, Any]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that torchvision's weights were trained with."""
AT_ONCE = 256
"""Images of one pass without slopes."""
FAMILIES = ("resnet", "resnext", "wide_resnet")


class Network(nn.Module):
    """A backbone, a linear map to the features, and a linear classifier on them.

    Parameters
    ----------
    backbone : str
        ``lite`` with its ImageNet weights, or the name of a residual network of torchvision.
    weights : Path, optional
        File with torchvision's weights of `backbone`; without one they are drawn.
    n_labels : int
    latent : int, optional
        Features; without it they are the backbone's own.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, backbone: str, weights: Path | None, n_labels: int, latent: int | None) -> None:
        super().__init__()
        if backbone == "lite":
            if weights is not None:
                raise CfpairsError(
                    "the backbone lite brings its weights", got=str(weights), remedy="leave out weights"
                )
            encoder = LiteEncoder("", EncoderConfig(device="cpu", runtime="torch"))
            self.backbone: nn.Module = encoder.build()
            dim, pixels = 1280, (PREPROCESSING.mean, PREPROCESSING.std)
        else:
            self.backbone, dim = _residual(backbone, weights)
            pixels = IMAGENET
        self.narrow = nn.Identity() if latent is None else nn.Linear(dim, latent)
        self.classifier = nn.Linear(latent or dim, n_labels)
        for name, values in zip(("mean", "spread"), pixels, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None])

    def features(self, pixels: Tensor) -> Tensor:
        """What the classifier sees, (n, latent), of images (n, 3, side, side) in 0..255."""
        normal = ((pixels.float() - self.mean) / self.spread).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.narrow(self.backbone(normal))
        return found

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, n_labels)."""
        found: Tensor = self.classifier(self.features(pixels))
        return found


def _residual(name: str, weights: Path | None) -> tuple[nn.Module, int]:
    from torchvision import models

    known = [model for model in models.list_models(models) if model.startswith(FAMILIES)]
    if name not in known:
        raise CfpairsError("no such backbone", got=repr(name), expected=", ".join(["lite", *known]))
    model: Any = models.get_model(name, weights=None)
    if weights is not None:
        try:
            model.load_state_dict(read_state_dict(weights))
        except RuntimeError as error:
            said = str(error).splitlines()
            raise CfpairsError(
                f"{weights} does not hold the weights of {name}", got=said[-1].strip()
            ) from error
    dim = int(model.fc.in_features)
    model.fc = nn.Identity()
    return model, dim


@dataclass(frozen=True)
class Method:
    """A way to train: how a batch's losses become one number, and whether pairs are held together."""

    loss: str
    pairs: bool = False


METHODS = {
    "erm": Method("mean"),
    "irm": Method("irm"),
    "groupdro": Method("groupdro"),
    "upweight": Method("upweight"),
    "ncm": Method("mean", pairs=True),
    "ncm-upweight": Method("upweight", pairs=True),
}
"""The paper's table: what its figure calls NCM is the mean squared distance of the two sides' features."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained; names as in the configuration."""

    backbone: str
    weights: Path | None
    latent: int | None
    batch: int
    pair_batch: int
    weight: float
    irm_weight: float
    group_rate: float
    rate: float
    momentum: float
    decay: float
    amp: bool


class Objective:
    """Makes one number of a batch's losses; keeps what GroupDRO has learned of the groups."""

    def __init__(self, kind: str, train: Items, settings: Settings, device: torch.device) -> None:
        counts = np.bincount(train.group)
        self.kind, self.settings = kind, settings
        self.weights = torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32, device=device)
        self.shares = torch.full((len(counts),), 1 / len(counts), device=device)

    def __call__(self, logits: Tensor, y: Tensor, env: Tensor, group: Tensor) -> Tensor:
        """The loss of a batch: logits (n, n_labels), the rest (n,)."""
        losses = functional.cross_entropy(logits, y, reduction="none")
        if self.kind == "upweight":
            return (self.weights[group] * losses).mean()
        if self.kind == "groupdro":
            return self._worst(losses, group)
        if self.kind == "irm":
            return losses.mean() + self.settings.irm_weight * self._penalty(logits, y, env)
        return losses.mean()

    def _worst(self, losses: Tensor, group: Tensor) -> Tensor:
        """Groups weighted by how badly they fare (Sagawa et al. 2020, algorithm 1)."""
        sums = torch.zeros_like(self.shares).index_add(0, group, losses)
        counts = torch.bincount(group, minlength=len(self.shares))
        means = sums / counts.clamp(min=1)
        grown = self.shares * torch.exp(self.settings.group_rate * means.detach())
        self.shares = grown / grown.sum()
        return (self.shares * means).sum()

    def _penalty(self, logits: Tensor, y: Tensor, env: Tensor) -> Tensor:
        """Mean over environments of the squared slope by a factor on the logits (Arjovsky et al. 2019)."""
        found = []
        for number in torch.unique(env):
            of = env == number
            scale = torch.ones((), device=logits.device, requires_grad=True)
            loss = functional.cross_entropy(logits[of] * scale, y[of])
            (slope,) = torch.autograd.grad(loss, scale, create_graph=True)
            found.append(slope.square())
        return torch.stack(found).mean()


@contextmanager
def unmoved_averages(network: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch whose running averages stay as they are."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, kept, strict=True):
            module.momentum = momentum


@dataclass
class Run:
    """One training: all that it changes, and what was measured after every epoch."""

    world: World
    settings: Settings
    method: Method
    seed: int
    device: torch.device
    history: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            settings = self.settings
            network = Network(settings.backbone, settings.weights, self.world.n_labels, settings.latent)
        # A third faster on a CPU, and on a GPU's half precision too.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            network.parameters(), lr=settings.rate, momentum=settings.momentum, weight_decay=settings.decay
        )
        self.objective = Objective(self.method.loss, self.world.train, settings, self.device)

    def save(self, path: Path, key: str) -> None:
        """Write the state."""
        file = io.BytesIO()
        parts = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({"key": key, "history": self.history, "shares": self.objective.shares, **parts}, file)
        write_bytes(path, file.getvalue())

    def resume(self, path: Path, key: str) -> None:
        """Take up a state of the same settings; any other, or a damaged one, counts for nothing."""
        if not path.is_file():
            return
        try:
            held = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            return
        if held.get("key") == key:
            self.network.load_state_dict(held["network"])
            self.optimizer.load_state_dict(held["optimizer"])
            self.objective.shares, self.history = held["shares"].to(self.device), held["history"]

    def epoch(self) -> None:
        """Every training item once, and what is right afterwards."""
        world, number = self.world, len(self.history)
        rng, draws = (np.random.default_rng([self.seed, number, part]) for part in (0, 1))
        group = world.train.group
        self.network.train()
        n = len(world.train.y)
        for rows in np.array_split(rng.permutation(n), max(1, round(n / self.settings.batch))):
            # Labels, environments and groups of the batch.
            told = [self._tensor(part[rows]) for part in (world.train.y, world.train.env, group)]
            with self._precision():
                logits = self.network(self._tensor(world.train.pixels[rows]))
            loss = self.objective(logits.float(), *told)
            if self.method.pairs:
                loss = loss + self.settings.weight * self._apart(draws)
            if not torch.isfinite(loss):
                raise _diverged(number + 1)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.history.append(self._measure(number + 1))

    def _apart(self, draws: np.random.Generator) -> Tensor:
        """Mean squared distance of the two sides' features, for pairs drawn anew."""
        k = len(self.world.first)
        some = draws.choice(k, min(k, self.settings.pair_batch), replace=False)
        both = np.concatenate([self.world.first[some], self.world.second[some]])
        with self._precision(), unmoved_averages(self.network):
            a, b = self.network.features(self._tensor(both)).float().chunk(2)
        apart: Tensor = (a - b).square().mean()
        return apart

    def _measure(self, epoch: int) -> Row:
        row: Row = {"epoch": epoch}
        self.network.eval()
        counts = np.bincount(self.world.train.group)
        for name in ("val", "test"):
            part: Items = getattr(self.world, name)
            told = self._outputs(part.pixels, self.network).argmax(1)
            found = evaluate(part.y, told, part.env)
            adjusted = (
                evaluate(part.y, told, part.env, train_counts=counts)
                if len(found.groups) == len(counts)
                else found
            )
            row |= {
                f"{name}_worst_group": found.worst_group,
                f"{name}_average": found.average,
                f"{name}_adjusted": adjusted.adjusted,
            }
        first, second = (
            self._outputs(side, self.network.features) for side in (self.world.first, self.world.second)
        )
        spread = np.concatenate([first, second]).var(axis=0).sum()
        row["pair_distance"] = float(((first - second) ** 2).sum(1).mean() / max(spread, 1e-12))
        if not np.isfinite(row["pair_distance"]):
            raise _diverged(epoch)
        return row

    def _outputs(self, pixels: NDArray[np.uint8], of: Any) -> NDArray[np.float64]:
        with torch.inference_mode(), self._precision():
            parts = [
                of(self._tensor(pixels[at : at + AT_ONCE])).float().cpu()
                for at in range(0, len(pixels), AT_ONCE)
            ]
        found: NDArray[np.float64] = torch.cat(parts).double().numpy()
        return found

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _precision(self) -> Any:
        """Half the bits where a GPU has them."""
        return torch.autocast("cuda", torch.bfloat16) if self.settings.amp else nullcontext()


def _diverged(epoch: int) -> CfpairsError:
    return CfpairsError("the training diverged", got=f"epoch {epoch}", remedy="lower rate or weight")


def fine_tune(run: Run, epochs: int, state: Path, key: str) -> list[Row]:
    """Train up to `epochs`, each written to `state` when it is done; returns what was measured after each."""
    run.resume(state, key)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while len(run.history) < epochs:
            run.epoch()
            run.save(state, key)
            worst = run.history[-1]["test_worst_group"]
            print(
                f"{state.stem}: epoch {len(run.history)} of {epochs}, worst group {worst:.3f}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return run.history[:epochs]
