"""The configuration file: frozen pydantic models of the YAML.

What belongs to one data set, builder or editor stands under its ``options`` and is checked by a model
that lives beside that code (its ``Options`` class), so that a new one needs no change here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cfpairs.errors import ConfigError
from cfpairs.registry import suggest

__all__ = [
    "Config",
    "DataConfig",
    "EncoderConfig",
    "PairConfig",
    "PreprocessConfig",
    "ProbeConfig",
    "ReportConfig",
    "Strict",
    "check_options",
    "dump_config",
    "parse_config",
    "parse_options",
    "parse_r",
    "read_config",
]

DEFAULT_RIDGE = tuple(10.0**power for power in range(-6, 3))
"""Inverse ridge strengths C (scikit-learn's convention) that every probe tunes over."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Rule = Literal["pairs", "in-domain", "validation", "worst-group", "leave-one-env-out", "oracle"]


class Strict(BaseModel):
    """Base of every configuration model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DataConfig(Strict):
    """Where the items come from."""

    preset: str = "digits"
    root: Path | None = Field(default=None, description="folder of the data set; relative to this file")
    options: dict[str, Any] = Field(default_factory=dict, description="the preset's own settings")
    train_with: tuple[str, ...] = Field(
        default=(), description="pair sets whose made items are training items like those of the data set"
    )


class PairConfig(Strict):
    """One pair set."""

    method: str = "edit"
    name: str | None = Field(default=None, description="folder name of the pair set; default: the method")
    pairs: Annotated[int, Field(ge=1)] = 240
    seed: int | None = Field(default=None, ge=0, description="default: the run's seed")
    from_: Path | None = Field(default=None, alias="from", description="file of pairs for method import")
    options: dict[str, Any] = Field(default_factory=dict, description="the builder's own settings")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME_PATTERN.fullmatch(value):
            raise ValueError("a pair set's name is 1-64 letters, digits, '.', '_' or '-'")
        return value

    @property
    def set_name(self) -> str:
        """The folder name of the pair set."""
        return self.name or self.method


class EncoderConfig(Strict):
    """The frozen encoder and how it is run."""

    spec: str = "lite"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    features: Literal["projected", "pooled"] = Field(
        default="projected", description="after or before CLIP's projection"
    )
    decoder: Literal["auto", "pillow", "fast", "nvjpeg"] = Field(
        default="auto",
        description="pillow: the model's own resizing; fast (auto, where the filter allows it): within one "
        "level of 255; nvjpeg: JPEG files are decoded and resized on the GPU",
    )
    compile: Literal["auto", "off"] = Field(default="auto", description="auto: CUDA graphs on a GPU")
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="images that the encoder gets at once; default: 32, or 256 on a GPU"
    )
    part_rows: Annotated[int, Field(ge=1)] = 512
    store: Literal["float32", "float16"] = "float32"
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="threads that read and decode; default: one a core, at most 16"
    )
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = Field(
        default=None,
        description="auto or HOST:PORT of a Ray cluster; default: one is started on this machine",
    )

    def batch(self, device: str) -> int:
        """Images that the encoder gets at once on a device, ``cpu`` or ``cuda``."""
        return self.batch_size or (256 if device == "cuda" else 32)

    @property
    def threads(self) -> int:
        """Threads that read and decode."""
        return self.workers or min(os.cpu_count() or 1, 16)


class PreprocessConfig(Strict):
    """One choice of preprocessing of the embeddings, the same for every probe."""

    normalize: Literal["l2", "none"] = "l2"
    scale: Literal["sqrt_d", "none"] = "sqrt_d"
    standardize: Literal["none", "train"] = "none"


class ProbeConfig(Strict):
    """Which probes are fitted, over which grid, and how one setting is chosen."""

    methods: tuple[str, ...] = ("erm", "ncm")
    r: str | int | tuple[int, ...] = "auto"
    C: tuple[Annotated[float, Field(gt=0)], ...] = DEFAULT_RIDGE
    selection: tuple[Rule, ...] = (
        "pairs", "in-domain", "validation", "worst-group", "leave-one-env-out", "oracle",
    )  # fmt: skip
    budget: Annotated[int, Field(ge=1)] | None = Field(
        default=20, description="most settings that a method may try, the same for all; null: no limit"
    )
    grids: dict[str, dict[str, tuple[float | int | str | bool, ...]]] = Field(
        default_factory=dict, description="values to try of a method's hyperparameters, by method"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    folds: Annotated[int, Field(ge=2, le=50)] = 5

    @field_validator("r")
    @classmethod
    def _valid_r(cls, value: str | int | tuple[int, ...]) -> str | int | tuple[int, ...]:
        parse_r(value)
        return value

    @field_validator("methods", "C", "selection", "seeds")
    @classmethod
    def _not_empty(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("needs at least one entry")
        if len(set(value)) != len(value):
            raise ValueError("has the same entry twice")
        return value


class ReportConfig(Strict):
    """The page."""

    title: str = "cfpairs report"
    gallery: Annotated[int, Field(ge=0, le=500)] = 12


class Config(Strict):
    """Everything that a run depends on."""

    workspace: Path = Path("cfpairs-work")
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig = DataConfig()
    pairs: tuple[PairConfig, ...] = (PairConfig(),)
    encoder: EncoderConfig = EncoderConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    probe: ProbeConfig = ProbeConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _distinct_pair_sets(self) -> Config:
        names = [p.set_name for p in self.pairs]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two pair sets are named {twice[0]!r}; give one of them another 'name'")
        return self


def parse_r(value: str | int | tuple[int, ...] | list[int]) -> tuple[int, ...] | None:
    """The ranks that a setting of r stands for, in ascending order; None for ``auto``.

    Parameters
    ----------
    value : str, int or sequence of int
        ``"auto"``, ``16``, ``"4,8,16"`` or ``"0:64"`` (both ends included).

    Raises
    ------
    ConfigError
        If it is none of these, or a rank is negative.

    Examples
    --------
    >>> parse_r("0:4"), parse_r("8,2"), parse_r("auto")
    ((0, 1, 2, 3, 4), (2, 8), None)
    """
    if isinstance(value, str):
        text = value.strip()
        if text == "auto":
            return None
        if re.fullmatch(r"\d+:\d+", text):
            low, high = (int(part) for part in text.split(":"))
            if high < low:
                raise ConfigError("the range of r runs backwards", got=text, remedy=f"write {high}:{low}")
            return tuple(range(low, high + 1))
        if re.fullmatch(r"\d+(\s*,\s*\d+)*", text):
            return tuple(sorted({int(part) for part in text.split(",")}))
        raise ConfigError("r cannot be read", got=repr(value), expected="auto, 16, 4,8,16 or 0:64")
    ranks = (value,) if isinstance(value, int) else tuple(value)
    if not ranks or any(r < 0 for r in ranks):
        raise ConfigError("r cannot be read", got=repr(value), expected="ranks of 0 or more")
    return tuple(sorted(set(ranks)))


Options = TypeVar("Options", bound=BaseModel)


def parse_options(model: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """Check the settings of one data set, builder or editor against its model.

    Raises
    ------
    ConfigError
        One line that names the first fault and, for an unknown key, the nearest known ones.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from error


def check_options(model: type[Options], options: BaseModel) -> Options:
    """The same options, which must be those of this model: for what is made with options of any kind.

    Raises
    ------
    ConfigError
        If they are another model's.
    """
    if not isinstance(options, model):
        raise ConfigError("wrong options", got=type(options).__name__, expected=model.__name__)
    return options


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault that pydantic found, as one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return f"unknown key {'.'.join(path)!r}, expected {suggest(path[-1], known)}"
    message = first["msg"].removeprefix("Value error, ")
    place = ".".join(path)
    got = first.get("input")
    shown = f" (got {got!r})" if isinstance(got, (str, int, float, bool)) or got is None else ""
    return f"{place}: {message}{shown}" if place else f"{message}{shown}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[str, ...]:
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            break
        model = inner
    return tuple(f.alias or name for name, f in model.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def parse_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check a mapping against `Config`."""
    return parse_options(Config, values, where)


def read_config(path: Path) -> Config:
    """Read a YAML file; relative paths in it are taken from the file's folder.

    Raises
    ------
    ConfigError
        If the file is missing, unreadable, no YAML, or not a valid configuration.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            "no configuration", got=f"no file {path}", remedy="write one with 'cfpairs init digits'"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}", got=str(error)) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", got=str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} is not a configuration", got=type(values).__name__, expected="a mapping of settings"
        )
    config = parse_config(values, str(path))
    return anchor(config, path.resolve().parent)


def anchor(config: Config, folder: Path) -> Config:
    """The same configuration with its relative paths made absolute from `folder`."""
    root = config.data.root
    return config.model_copy(
        update={
            "workspace": folder / config.workspace,
            "data": config.data.model_copy(update={"root": None if root is None else folder / root}),
            "pairs": tuple(
                p if p.from_ is None else p.model_copy(update={"from_": folder / p.from_})
                for p in config.pairs
            ),
        }
    )


def dump_config(config: Config) -> str:
    """The configuration as YAML that `read_config` accepts."""
    values = config.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
