"""Tiny diffusion pipelines with random weights, saved to disk with the real layout and loaded as any other."""

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
