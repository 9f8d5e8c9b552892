"""Building open_clip's models from a configuration and a weight file: the image tower, or all of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cfpairs.encoders.hub import hub_client
from cfpairs.encoders.weights import read_state_dict
from cfpairs.errors import CfpairsError, DataError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["TowerPlan", "image_tower", "pooled_dim", "tokens", "whole_model"]


@dataclass(frozen=True)
class TowerPlan:
    """A model's name and configuration (``embed_dim``, ``vision_cfg``, ``quick_gelu``)."""

    name: str
    config: dict[str, Any]


def image_tower(plan: TowerPlan, weights: Path, pooled: bool) -> torch.nn.Module:
    """The image side alone, with its weights; the text side is never built.

    Parameters
    ----------
    pooled : bool
        Whether CLIP's projection is left out.

    Raises
    ------
    DataError
        If the file holds anything but tensors, or the weights of another model.
    """
    state = read_state_dict(weights)
    try:
        visual = _visual(plan)
        visual.load_state_dict(_image_state(state, visual))
    except Exception as error:  # mismatches surface as anything from KeyError to RuntimeError
        raise _mismatch(plan, weights, error) from error
    if pooled:
        _drop_projection(visual)
    _end_on_class_token(visual)
    return _one_output(visual)


def _end_on_class_token(visual: Any) -> None:
    """Leave out what the last block of a transformer works out and nobody reads.

    Where the embedding is read off the class token, the other tokens of the last block need no query, no
    output and no multilayer perceptron: the same sums, one twelfth less work in a tower of 12 blocks.
    """
    import torch
    from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer

    class ClassTokenBlock(torch.nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block

        def forward(self, tokens: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            block = self.block
            normed = block.ln_1(tokens)
            first = tokens[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
            found: torch.Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
            return found

    if (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and type(visual.transformer) is Transformer
        and visual.transformer.batch_first
        and type(visual.transformer.resblocks[-1]) is ResidualAttentionBlock
    ):
        visual.transformer.resblocks[-1] = ClassTokenBlock(visual.transformer.resblocks[-1])


def pooled_dim(plan: TowerPlan) -> int:
    """Dimension before the projection, from a tower without memory."""
    import torch

    with torch.device("meta"):
        return _drop_projection(_visual(plan))


def _visual(plan: TowerPlan) -> Any:
    """open_clip's own image tower, with random weights, in evaluation mode."""
    from open_clip.model import _build_vision_tower

    vision = copy.deepcopy(plan.config["vision_cfg"])
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    return _build_vision_tower(plan.config["embed_dim"], vision, plan.config.get("quick_gelu", False)).eval()


def _image_state(state: dict[str, torch.Tensor], visual: Any) -> dict[str, torch.Tensor]:
    """The image side's tensors under its own names, whoever wrote the file."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import resize_pos_embed

    if next(iter(state)).startswith("module."):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    shell = SimpleNamespace(visual=visual)
    state = convert_state_dict(shell, state)
    resize_pos_embed(state, shell)
    mark = "visual."
    return {name.removeprefix(mark): tensor for name, tensor in state.items() if name.startswith(mark)}


def _drop_projection(visual: Any) -> int:
    """Take CLIP's projection out of the tower; the dimension that is left."""
    import torch

    if hasattr(visual, "trunk"):
        return _drop_timm_projection(visual)
    if hasattr(visual, "attnpool"):  # the projection is the output layer of the pooling attention
        pool = visual.attnpool
        wide = int(pool.c_proj.in_features)
        pool.c_proj = torch.nn.Linear(wide, wide)
        with torch.no_grad():
            pool.c_proj.weight.copy_(torch.eye(wide))
            pool.c_proj.bias.zero_()
        return wide
    if visual.proj is None:
        return int(visual.output_dim)
    wide = int(visual.proj.shape[0])
    visual.proj = None
    return wide


def _drop_timm_projection(visual: Any) -> int:
    import torch

    head = visual.head
    if hasattr(head, "proj"):
        wide = int(head.proj.in_features)
        head.proj = torch.nn.Identity()
    elif hasattr(head, "mlp"):
        wide = int(head.mlp.fc1.in_features)
        head.mlp = torch.nn.Identity()
    elif hasattr(head, "pool"):
        wide = int(head.pool.proj.in_features)
        head.pool.proj = torch.nn.Identity()
    else:  # the trunk's own classifier is the projection, or there is none
        wide = int(visual.trunk.head_hidden_size)
        visual.trunk.reset_classifier(0)
    return wide


def _one_output(visual: torch.nn.Module) -> torch.nn.Module:
    """The tower with one output; some towers return the tokens beside the pooled embedding."""
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.visual(images)
            pooled: torch.Tensor = found[0] if isinstance(found, tuple) else found
            return pooled

    return ImageTower().eval()


def whole_model(plan: TowerPlan, weights: Path) -> Any:
    """The model with both sides, by open_clip's factory.

    Raises
    ------
    DataError
        If the file holds anything but tensors, or the weights of another model.
    MissingDependencyError
        If its text side needs a library that is not installed.
    """
    import open_clip

    read_state_dict(weights)
    try:
        with hub_client(), _quiet_root():
            whole = open_clip.create_model(
                plan.name,
                load_weights=False,
                force_quick_gelu=bool(plan.config.get("quick_gelu", False)),
                pretrained_text=False,
            )
        open_clip.load_checkpoint(whole, str(weights), weights_only=True)
    except Exception as error:  # mismatches surface as anything from KeyError to RuntimeError
        raise _mismatch(plan, weights, error) from error
    return whole.eval()


def tokens(model: str, prompts: Sequence[str]) -> torch.Tensor:
    """Texts to the model's own token numbers.

    Raises
    ------
    CfpairsError
        If the tokenizer is not on disk and cannot be fetched.
    """
    import open_clip

    try:
        with hub_client():
            found: torch.Tensor = open_clip.get_tokenizer(model)(list(prompts))
    except Exception as error:  # tokenizers from a hub raise its client's own kinds
        raise CfpairsError(
            f"the tokenizer of {model} cannot be had",
            got=f"{type(error).__name__}: {str(error).split('. ')[0][:160]}",
        ) from error
    return found


def _mismatch(plan: TowerPlan, weights: Path, error: Exception) -> CfpairsError:
    if "transformers" in str(error) and find_spec("transformers") is None:
        return MissingDependencyError(
            f"the text side of {plan.name} needs the library transformers", remedy="pip install transformers"
        )
    return DataError(
        f"{weights} does not hold the weights of open_clip's {plan.name}",
        got=f"{type(error).__name__}: {str(error)[:160]}",
        remedy="name the model that the file was saved from",
    )


@contextmanager
def _quiet_root() -> Iterator[None]:
    """The factory warns that weights are random; they come right after."""
    log = logging.getLogger()
    log.addFilter(_is_no_random)
    try:
        yield
    finally:
        log.removeFilter(_is_no_random)


def _is_no_random(record: logging.LogRecord) -> bool:
    return "initialized randomly" not in record.getMessage()
