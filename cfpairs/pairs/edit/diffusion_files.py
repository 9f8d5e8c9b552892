"""Diffusion models on disk and on the hub: where they lie, if they are safe to read, what identifies them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cfpairs.errors import CfpairsError, ConfigError

__all__ = [
    "INDEX",
    "REMEDY",
    "ModelSource",
    "check_weights",
    "digest",
    "locate",
    "places",
    "quiet",
    "read_index",
    "short",
    "silent",
]

INDEX = "model_index.json"

REMEDY = (
    "pass a local folder, such as 'hf download NAME --local-dir DIR' makes, or use editor composite, "
    "which needs no model"
)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CONFIGS = (".json", ".txt", ".model")

WEIGHTS = re.compile(r"[^.]+?(?:\.(?P<variant>[^.-]+))?(?:-\d+-of-\d+)?\.\w+")
"""Name of a weight file, such as ``model.fp16-00001-of-00002.safetensors``."""

LOGGERS = ("diffusers", "transformers", "huggingface_hub", "httpx", "httpx2")

HUB_SECONDS = 10.0
"""How long the hub may take to answer before the cache is used."""


@dataclass(frozen=True)
class ModelSource:
    """What the user named.

    Attributes
    ----------
    model : str
        A folder, a ``.safetensors`` file, or a hub name (``owner/name``).
    config : str or None
        The folder with the settings of a single file.
    revision : str or None
        Branch, tag or commit of a hub name.
    variant : str or None
        Which weights of several, such as ``fp16``.
    offline : bool
        Whether only the hub's cache may be used; ``HF_HUB_OFFLINE`` in the environment says so too.
    allow_pickle : bool
        Whether weights that are not safetensors may be loaded.
    root : Path or None
        Where relative paths start, before the current folder.
    """

    model: str
    config: str | None = None
    revision: str | None = None
    variant: str | None = None
    offline: bool = False
    allow_pickle: bool = False
    root: Path | None = None


def places(name: str, root: Path | None) -> list[Path]:
    """Where a file or folder that a user names may lie: from the data set's folder or the current one."""
    return [base / Path(name).expanduser() for base in (root, Path.cwd()) if base is not None]


def locate(source: ModelSource) -> Path:
    """The folder or file of a model, fetched from the hub if it is named by its hub name.

    Raises
    ------
    ConfigError
        If no model is named, the file or folder is missing or holds no pipeline.
    CfpairsError
        If a hub model is not in the cache and cannot be fetched.
    """
    name = source.model
    if not name:
        raise ConfigError("the editor needs a diffusion model", got="no option 'model'", remedy=REMEDY)
    for place in places(name, source.root):
        if place.is_dir():
            if not (place / INDEX).is_file():
                raise ConfigError(
                    "no diffusers pipeline",
                    got=f"the folder {name}",
                    expected=f"{INDEX} in it",
                    remedy=REMEDY,
                )
            return place
        if place.is_file():
            if place.suffix != ".safetensors":
                raise ConfigError(
                    "a single file must hold safetensors: other formats can run code when they are read",
                    got=name,
                    remedy="convert it to .safetensors or to a folder of diffusers",
                )
            return place
    if not HUB_NAME.fullmatch(name) or name.endswith(".safetensors"):
        raise ConfigError(
            "no such model",
            got=name,
            expected="a folder, a .safetensors file or a hub name owner/name",
            remedy=REMEDY,
        )
    return _fetch(source)


def _fetch(source: ModelSource) -> Path:
    """The cached snapshot of a hub model, brought up to date if the hub answers."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = source.model, source.revision
    offline = constants.HF_HUB_OFFLINE or source.offline
    reason = "offline" if offline else ""
    with silent():
        if not offline:
            try:
                HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
            except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
                raise CfpairsError(
                    "the hub has no such model, or you may not read it",
                    got=f"{name} at {revision}" if revision else name,
                    remedy=f"see to its name and licence; or {REMEDY}",
                ) from error
            except Exception as error:  # every hub client raises its own kinds
                reason = f"the hub cannot be reached ({type(error).__name__})"
        try:
            if reason:
                # Asked first: importing diffusers to learn that nothing is there takes ten seconds.
                snapshot_download(name, revision=revision, local_files_only=True)
            from diffusers import DiffusionPipeline

            return Path(
                DiffusionPipeline.download(
                    name,
                    revision=revision,
                    variant=source.variant,
                    use_safetensors=None if source.allow_pickle else True,
                    local_files_only=bool(reason),
                )
            )
        except Exception as error:
            raise CfpairsError(
                f"the diffusion model {name} cannot be loaded",
                got=f"{reason}, and it is not in the cache" if reason else short(error),
                remedy=REMEDY,
            ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """The parts of a pipeline by name.

    Raises
    ------
    ConfigError
        If they cannot be read, or if loading them would run code that lies in the folder.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "no diffusers pipeline", got=f"{INDEX} of {folder} cannot be read: {short(error)}"
        ) from error
    code = sorted(path.name for path in (*folder.glob("*.py"), *folder.glob("*/*.py")))
    if code or not isinstance(name, str):
        raise ConfigError(
            "the pipeline brings its own code, which is not run",
            got=code[0] if code else f"_class_name {name}",
            expected="a pipeline of diffusers",
        )
    return dict(index)


def check_weights(folder: Path, index: Mapping[str, Any], skip: frozenset[str]) -> None:
    """Raise `ConfigError` if a part of the pipeline has weights, but none as safetensors."""
    for part in sorted(index):
        inside = folder / part
        if part in skip or not inside.is_dir():
            continue
        suffixes = {path.suffix for path in inside.iterdir()}
        if suffixes & set(PICKLES) and ".safetensors" not in suffixes:
            raise ConfigError(
                "weights that are not safetensors can run code when they are read",
                got=f"{part}/*{min(suffixes & set(PICKLES))}",
                expected=".safetensors",
                remedy="take another model, or set allow_pickle: true if you trust this one",
            )


def digest(place: Path, variant: str | None = None) -> str:
    """Hash of every file that loading a pipeline may read: names and contents, weights and settings.

    Parameters
    ----------
    place : Path
        A folder of diffusers, or a single file.
    variant : str, optional
        Weights of other variants are left out.
    """
    if place.is_file():
        return _file_hash(place)
    total = hashlib.sha256()
    for path in sorted((*place.glob("*.json"), *place.glob("*/*"))):
        weights = WEIGHTS.fullmatch(path.name)
        if path.suffix in (".safetensors", *PICKLES):
            wanted = weights is not None and weights["variant"] in (None, variant)
        else:
            wanted = path.suffix in CONFIGS
        if wanted and path.is_file():
            total.update(f"{path.relative_to(place).as_posix()} {_file_hash(path)}\n".encode())
    return total.hexdigest()


def _file_hash(path: Path) -> str:
    try:
        found = path.stat()
        return _hash_unchanged(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be read", got=error.strerror or str(error)) from error


@lru_cache(maxsize=256)
def _hash_unchanged(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Within it the libraries of diffusion models log nothing, and draw bars of downloads on terminals only.

    Warnings are left alone: their filters belong to the process, and threads may be reading images meanwhile.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    bars = not are_progress_bars_disabled()
    if not sys.stderr.isatty():
        disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            enable_progress_bars()


@contextmanager
def silent() -> Iterator[None]:
    """Within it they do not warn either; for one thread alone, while a model is fetched or loaded."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(error: BaseException) -> str:
    """An error of another library in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
