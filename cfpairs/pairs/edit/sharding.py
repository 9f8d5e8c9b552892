"""Edits made by other processes: what is sent to them, and what they do with it.

They write images under their final names into the workspace that they share with the builder, which then goes
its usual way and keeps every image that is there. So what is planned is planned twice: it pays where an edit
costs much more than its plan, as with diffusion, and not for composites.
"""

from __future__ import annotations

import importlib.metadata
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from cfpairs.errors import CfpairsError, ConfigError
from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cells import TrainItems
from cfpairs.pairs.edit.base import Editor, EditPlan, EditTask
from cfpairs.pairs.edit.making import Maker
from cfpairs.progress import SILENT
from cfpairs.workspace import Workspace

__all__ = ["EditShards"]

_TELLING = ("cv2", "diffusers", "numpy", "PIL", "torch", "transformers")
"""Libraries that pixels depend on."""


class _Builder(Protocol):
    """What of `EditBuilder` is used here."""

    editor: Editor

    def __init__(self, options: BaseModel) -> None: ...
    def open(self, inputs: BuildInputs, items: TrainItems) -> frozenset[int]: ...
    def maker(self, inputs: BuildInputs, workers: int | None = None) -> Maker: ...
    def place(self, inputs: BuildInputs, task: EditTask, plan: EditPlan) -> Path: ...

    @property
    def options(self) -> BaseModel: ...


class EditShards:
    """Makes edits of one build in another process; see `ShardMaker`.

    Parameters
    ----------
    builder : EditBuilder
        With its editor open. Other processes make their own, of the same options.
    inputs : BuildInputs
        Of the build.
    items : TrainItems

    Notes
    -----
    Another process must plan the same edits: versions are compared, and so is the name of one image, which
    tells its content, its mask and, for diffusion, the model, the device and the precision.
    """

    def __init__(self, builder: _Builder, inputs: BuildInputs, items: TrainItems) -> None:
        editor = builder.editor
        self._kind = type(builder)
        self._options = builder.options
        self._inputs = replace(
            inputs,
            workspace=Workspace(inputs.workspace.root),
            manifest=items.table,
            root=None if inputs.root is None else inputs.root.absolute(),
            embeddings=None,
            judge=None,
            spread=None,
            progress=SILENT,
        )
        self.batch_size = editor.batch_size
        # An editor of many threads works on the CPU; the others say where.
        device = getattr(getattr(editor, "options", None), "device", "auto")
        self.wants_gpu = not editor.threaded and device != "cpu"
        self.witness: Path | None = None
        self._versions = {name: _version(name) for name in _TELLING if name in sys.modules}
        self._expected: tuple[EditTask, str] | None = None
        self._here: _Builder | None = builder
        self._maker: Maker | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_here": None, "_maker": None}

    def check_by(self, tasks: Sequence[EditTask]) -> None:
        """Note the image of the first of these tasks that can be planned, unless one is noted already."""
        if self._expected is not None or self._here is None:
            return
        for task in tasks[:100]:
            try:
                plan = self._here.editor.plan(task)
            except CfpairsError:
                raise
            except Exception:  # a bad image is met, and told, in the build  # noqa: S112
                continue
            self._expected = task, self._here.place(self._inputs, task, plan).name
            self.witness = self._inputs.workspace.file(task.item["path"])
            return

    def open(self, workers: int) -> None:
        """Open masks and editor in this process, with so many threads.

        Raises
        ------
        ConfigError
            If it would edit in another way than the builder.
        CfpairsError
            If the editor cannot be opened here.
        """
        for name, expected in self._versions.items():
            if (got := _version(name)) != expected:
                raise _other_way(name, got, expected)
        builder = self._kind(self._options)
        builder.open(self._inputs, TrainItems.of(self._inputs.manifest))
        if self._expected is not None:
            task, expected = self._expected
            got = builder.place(self._inputs, task, builder.editor.plan(task)).name
            if got != expected:
                raise _other_way("image, mask, model or device", got, expected)
        self._maker = builder.maker(self._inputs, workers)

    def make(self, tasks: Sequence[EditTask]) -> None:
        """Write the images of these tasks, but for those that are there; what cannot be edited is left out.

        Raises
        ------
        CfpairsError
            If the editor or the disk cannot be used at all.
        """
        if self._maker is None:
            raise CfpairsError("these edits have not been opened", remedy="call open() first")
        for _ in self._maker.make(tasks):
            pass


def _version(name: str) -> str:
    packages = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    try:
        return importlib.metadata.version(packages.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _other_way(what: str, got: str, expected: str) -> ConfigError:
    return ConfigError(
        f"the machine {socket.gethostname()} would edit in another way ({what})",
        got=got,
        expected=expected,
        remedy="use the same versions, files and kind of device on every machine, this one too",
    )
