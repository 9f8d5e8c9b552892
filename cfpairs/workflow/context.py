"""What every stage is given, and what it says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cfpairs.config import Config, read_config
from cfpairs.errors import ConfigError
from cfpairs.notebook import html_table
from cfpairs.progress import SILENT, Progress
from cfpairs.workspace import Workspace

__all__ = ["CONFIG_NAME", "Context", "StageResult", "find_config", "source_items", "training_items"]

CONFIG_NAME = "cfpairs.yaml"


@dataclass(frozen=True)
class Context:
    """A configuration, its workspace and somewhere to report progress."""

    config: Config
    progress: Progress = SILENT

    @property
    def workspace(self) -> Workspace:
        """Where everything lies."""
        return Workspace(self.config.workspace)

    @property
    def data_root(self) -> Path:
        """Folder of the data set; a preset that makes its own files has it in the workspace."""
        return self.config.data.root or self.workspace.root / "data"

    def with_config(self, **changes: Any) -> Context:
        """The same with some sections of the configuration replaced."""
        return replace(self, config=self.config.model_copy(update=changes))


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes
    ----------
    stage : str
        ``manifest``, ``pairs:NAME``, ``embeddings``, ``probe`` or ``report``.
    made : bool
        False when everything was there already.
    summary : str
        One line for the user.
    notes : tuple of str
        Further lines: shortfalls, failures.
    data : dict
        The same for programs.
    view : object
        What a terminal can draw, where a stage has such a thing.
    """

    stage: str
    made: bool
    summary: str
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    view: Any = None

    def _repr_html_(self) -> str:
        """What was done, for notebooks; of a probe run, the results that its first rule chose."""
        rows = [(self.stage, self.summary), *(("note", note) for note in self.notes)]
        means = [row for row in self.data.get("results", ()) if row["seed"] is None]
        chosen = [row for row in means if row["selection"] == means[0]["selection"]]
        if not chosen:
            return html_table(rows)
        results = [
            (
                row["pair_set"] or "no pairs",
                row["method"],
                row["r"],
                f"{row['worst_group']:.3f}",
                f"{row['worst_group_low']:.3f} to {row['worst_group_high']:.3f}",
                f"{row['average']:.3f}",
            )
            for row in sorted(chosen, key=lambda row: -row["worst_group"])
        ]
        columns = ("pair set", "probe", "r", "worst group", "95 %", "average")
        return html_table(rows) + html_table(
            results, columns, f"test accuracy, settings chosen by {chosen[0]['selection']}"
        )


def find_config(config: Path | None, workspace: Path | None, seed: int | None = None) -> tuple[Config, Path]:
    """The configuration of a command: the named file, else ``cfpairs.yaml`` here, else the workspace's own.

    Parameters
    ----------
    config, workspace : Path, optional
        As given on the command line; `workspace` replaces the file's.
    seed : int, optional
        Replaces the file's seed.

    Returns
    -------
    Config, Path
        The configuration and the file that it was read from.

    Raises
    ------
    ConfigError
        If no file is found, or it is wrong.
    """
    path = config
    if path is None:
        path = Path(CONFIG_NAME)
        own = None if workspace is None else Workspace(workspace).config
        if not path.exists() and own is not None and own.exists():
            path = own
    found = read_config(path)
    changes: dict[str, Any] = {}
    if workspace is not None:
        changes["workspace"] = workspace.absolute()
    if seed is not None:
        if seed < 0:
            raise ConfigError("the seed cannot be used", got=seed, expected="0 or more")
        changes["seed"] = seed
    return found.model_copy(update=changes), path


def source_items(manifest: pa.Table) -> pa.Table:
    """Items of the data set itself: those that no pair set has made."""
    if "pair_set" not in manifest.column_names:
        return manifest
    return manifest.filter(pc.is_null(manifest["pair_set"]))


def training_items(context: Context, manifest: pa.Table) -> pa.Table:
    """Rows of split train: those of the data set, and those that pair sets of ``data.train_with`` made.

    Never control items: they are their sources once more.
    """
    train = manifest.filter(
        pc.and_(pc.equal(manifest["split"], "train"), pc.not_equal(manifest["origin"], "control"))
    )
    if "pair_set" not in train.column_names:
        return train
    wanted = pa.array(context.config.data.train_with, pa.string())
    return train.filter(pc.or_kleene(pc.is_null(train["pair_set"]), pc.is_in(train["pair_set"], wanted)))
