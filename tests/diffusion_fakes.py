"""Tiny diffusion pipelines with random weights, saved to disk with the real layout."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 32
"""Side in pixels of the images that the tiny models were made for."""

_WORDS = ["<|startoftext|>", "<|endoftext|>", "<unk>"]


def save_inpainting(folder: Path, *, checker: bool = False) -> Path:
    """A Stable Diffusion pipeline for inpainting: 4 latent channels, 1 of the mask, 4 of the masked image.

    With `checker` it has a safety checker that finds fault with every image.
    """
    return _save(folder, 9, lambda d: d.StableDiffusionInpaintPipeline, checker)


def save_instruct(folder: Path) -> Path:
    """An InstructPix2Pix pipeline: 4 latent channels and 4 of the source."""
    return _save(folder, 8, lambda d: d.StableDiffusionInstructPix2PixPipeline, False)


def save_single_file(folder: Path, file: Path) -> Path:
    """The weights of `folder`, made by `save_inpainting`, as one file with the names of the first release."""
    from safetensors.torch import load_file, save_file

    found = {}
    for part, prefix, rename in (
        ("unet", "model.diffusion_model.", _unet_name),
        ("vae", "first_stage_model.", _vae_name),
        ("text_encoder", "cond_stage_model.transformer.", _text_name),
    ):
        (weights,) = (folder / part).glob("*.safetensors")
        for name, values in load_file(weights).items():
            to = rename(name)
            linear_to_conv = part == "vae" and ".attn_1." in to and to.endswith("weight") and values.ndim == 2
            found[prefix + to] = values[:, :, None, None].contiguous() if linear_to_conv else values
    save_file(found, file)
    return file


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _unet_name(name: str) -> str:
    """A layer of `_unet` in the names of Stable Diffusion's first release; a block has one layer."""
    parts = name.split(".")
    if parts[0] in ("down_blocks", "up_blocks", "mid_block"):
        if parts[0] == "mid_block":
            kind, layer, rest = parts[1], int(parts[2]), parts[3:]
            place = f"middle_block.{1 if kind == 'attentions' else 2 * layer}"
        else:
            block, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
            if parts[0] == "down_blocks":
                number = 2 * block + (2 if kind == "downsamplers" else 1 + layer)
                place = f"input_blocks.{number}.{1 if kind == 'attentions' else 0}"
            else:
                number = 2 * block + (1 if kind == "upsamplers" else layer)
                place = f"output_blocks.{number}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': 2}[kind] }"
        if kind == "resnets":
            rest = [_RESNET[rest[0]], *rest[1:]]
        if kind == "downsamplers":
            rest = ["op", *rest[1:]]
        return ".".join([place, *rest])
    for ours, theirs in (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ):
        name = name.replace(ours, theirs)
    return name


def _vae_name(name: str) -> str:
    """A layer of `_autoencoder` in the names of the first release."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
        name = name.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
    name = name.replace("to_out.0", "proj_out")
    for layer in (0, 1):
        name = name.replace(f"mid_block.resnets.{layer}", f"mid.block_{layer + 1}")
        name = name.replace(f"down_blocks.{layer}.", f"down.{layer}.")
    if "up_blocks." in name:
        head, tail = name.split("up_blocks.")
        name = f"{head}up.{1 - int(tail[0])}{tail[1:]}"
    return (
        name.replace("resnets", "block")
        .replace("downsamplers.0", "downsample")
        .replace("upsamplers.0", "upsample")
    )


def _text_name(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def save_text_to_image(folder: Path) -> Path:
    """A Stable Diffusion pipeline that knows of no source image."""
    return _save(folder, 4, lambda d: d.StableDiffusionPipeline, False)


def _save(folder: Path, channels: int, kind: Callable[[Any], Any], checker: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = {
                "vae": _autoencoder(diffusers),
                "unet": _unet(diffusers, channels),
                "scheduler": diffusers.DDIMScheduler(
                    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
                ),
                "text_encoder": _text_encoder(),
                "tokenizer": _tokenizer(folder),
                "safety_checker": _strict_checker() if checker else None,
                "feature_extractor": _checker_input() if checker else None,
            }
            pipeline = kind(diffusers)(**parts, requires_safety_checker=checker)
            pipeline.set_progress_bar_config(disable=True)
            pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _autoencoder(diffusers: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    )


def _unet(diffusers: Any, channels: int) -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=SIDE // 2,
        in_channels=channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=40,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).eval()


def _tokenizer(folder: Path) -> Any:
    """Letters alone: CLIP's tokenizer with no merges."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocab = {word: i for i, word in enumerate([*_WORDS, *letters, *(letter + "</w>" for letter in letters)])}
    source = folder.with_name(f"{folder.name}-words")
    source.mkdir(parents=True)
    (source / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (source / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(
        str(source / "vocab.json"), str(source / "merges.txt"), unk_token="<unk>", model_max_length=40
    )


def _strict_checker() -> Any:
    """Stable Diffusion's own checker with thresholds that every image exceeds."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    found = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config={**tower, "vocab_size": 8},
            vision_config={**tower, "image_size": SIDE, "patch_size": 16},
            projection_dim=16,
        )
    )
    found.concept_embeds_weights.data.fill_(-2.0)
    return found.eval()


def _checker_input() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(crop_size={"height": SIDE, "width": SIDE}, size={"shortest_edge": SIDE})
