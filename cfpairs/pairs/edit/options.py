"""What the configuration says of pairs by editing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from cfpairs.config import Strict
from cfpairs.pairs.edit.checks import CheckOptions
from cfpairs.pairs.edit.masks import DEFAULT_MASKERS
from cfpairs.pairs.edit.streams import Choose

__all__ = ["EditOptions"]


class EditOptions(Strict):
    """Settings of `cfpairs.pairs.edit.builder.EditBuilder`."""

    editor: str = Field(default="composite", description="name of the editor")
    editor_options: dict[str, Any] = Field(default_factory=dict, description="the editor's own settings")
    masks: tuple[str, ...] = Field(
        default=DEFAULT_MASKERS, description="names of maskers, tried in this order until one finds a mask"
    )
    mask_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="each masker's own settings, by its name"
    )
    choose: Choose = Field(
        default="balanced",
        description="which items are edited: as many of every group; those whose edits fill the smallest "
        "groups; or any training item",
    )
    shares: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="pairs of each label by its name, in this proportion; a label left out gets none; "
        "default: as 'choose' says",
    )
    per_item: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="most edits of one item to one environment, each on another background"
    )
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=3,
        description="how often an edit that fails a check is made, each with another seed or background",
    )
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="threads; default: one a core, at most 8"
    )
    control: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=40,
        description="control pairs: so many of the edited items are edited once more with nothing to change, "
        "which shows how much the editor changes by itself; not by editors that change nothing else",
    )
    checks: CheckOptions = CheckOptions()

    @field_validator("shares")
    @classmethod
    def _some_share(cls, value: dict[str, int] | None) -> dict[str, int] | None:
        if value is not None and not any(value.values()):
            raise ValueError("at least one label needs a share above 0")
        return value
