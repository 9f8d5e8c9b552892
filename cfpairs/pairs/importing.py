"""Pairs that people have listed in a file: the same subject photographed twice, say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import Cell, TrainItems, deal, shortfall_note
from cfpairs.pairs.import_checks import RowChecker
from cfpairs.pairs.pair_file import FACTS, PairFile, read_pair_file
from cfpairs.tables import MANIFEST, PAIRS, make_table

__all__ = ["ImportBuilder", "ImportOptions"]

PIXEL_LIMIT = int(Image.MAX_IMAGE_PIXELS or 2**26)
"""Pillow's own limit, beyond which no image is encoded either."""

OWN_COLUMNS = ("line", "a", "b")

LIMITS = (
    "nothing checks that the two images of a pair show the same subject",
    "what differs beside the environment (light, pose, time) is taken for the environment too",
)

REASONS_TOLD = 5


class ImportOptions(Strict):
    """Settings of `ImportBuilder`."""

    a: str = Field(default="a", min_length=1, description="column of the first item")
    b: str = Field(default="b", min_length=1, description="column of the second item")
    splits: Annotated[tuple[Literal["train", "val", "test"], ...], Field(min_length=1)] = Field(
        default=("train",), description="splits whose items may be in a pair"
    )
    same_env: Literal["reject", "allow"] = Field(
        default="reject",
        description="pairs within one environment; with 'allow', a new image whose environment the file "
        "does not say has its partner's",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="most pairs to take, spread evenly over the cells; default: all"
    )
    max_pixels: Annotated[int, Field(ge=1, le=PIXEL_LIMIT)] = Field(
        default=PIXEL_LIMIT, description="a new image with more is refused"
    )


class ImportBuilder:
    """Take the pairs that a file lists.

    Parameters
    ----------
    options : ImportOptions

    Notes
    -----
    Every row of the file becomes a row of the pair set; one that cannot be used is ``rejected`` and says why.
    Its ``a_id`` and ``b_id`` are then what the file says where no item is meant by it, and its ``pair_id``
    depends on the line. Columns ``line``, ``a`` and ``b`` keep what was written, the file's other columns
    are carried along. Usable pairs come first, the cells taking turns, so that a smaller `limit` gives the
    first of them; those beyond it are ``dropped``. ``n_pairs`` is not looked at: a list is not cut unless
    that is asked for.

    An image under the data root that is no item becomes one, of split train.
    """

    Options: ClassVar[type[BaseModel]] = ImportOptions
    needs_embeddings: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(ImportOptions, options)

    def build(self, inputs: BuildInputs) -> PairSet:
        """Read the file and check every row.

        Raises
        ------
        ConfigError
            If no file is named.
        DataError
            If the file as a whole cannot be used, or not one of its rows can.
        """
        if inputs.source_file is None:
            raise ConfigError("method import needs a file of pairs", remedy="name it with --from FILE")
        listed = read_pair_file(inputs.source_file, self.options.a, self.options.b)
        items = TrainItems.of(inputs.manifest)
        checker = RowChecker(
            inputs,
            splits=self.options.splits,
            same_env=self.options.same_env,
            max_pixels=self.options.max_pixels,
            unit=listed.unit,
        )
        rows: list[dict[str, Any]] = []
        with inputs.progress.task("checking the listed pairs", len(listed.rows)) as advance:
            for row in listed.rows:
                rows.append(checker.check(row))
                advance(1)
        if not any(row["status"] == "ok" for row in rows):
            raise DataError(
                f"no pair of {listed.name} can be used",
                got=f"{len(rows)} rows; " + "; ".join(_reasons(rows, listed.unit)),
            )
        order = self._order(rows)
        table = make_table([rows[i] for i in order], PAIRS)
        made = checker.made([rows[i] for i in order])
        notes = self._notes(rows, len(made), inputs.n_pairs)
        told = [f"rejected {line}" for line in _reasons(rows, listed.unit)]
        card = pair_card(
            inputs,
            items,
            rows,
            method=f"Pairs that people have listed in the file {listed.name!r}.",
            settings=self._settings(listed),
            limits=(*LIMITS, *self._leaks(rows, checker)),
            notes=notes,
        )
        new = make_table(made, MANIFEST) if made else None
        return PairSet(_carry(table, listed, order), new, card, (*told, *notes))

    def _order(self, rows: list[dict[str, Any]]) -> list[int]:
        """Usable rows first, the cells taking turns, then all others; those beyond the limit are dropped."""
        cells: dict[Cell, list[int]] = {}
        for i, row in enumerate(rows):
            if row["status"] == "ok":
                cells.setdefault(Cell(row["label"], row["env_a"], row["env_b"]), []).append(i)
        streams = [iter(cells[cell]) for cell in sorted(cells)]
        turns = deal([len(cells[cell]) for cell in sorted(cells)], len(rows))
        usable = [next(streams[turn]) for turn in turns]
        for i in usable[self.options.limit :] if self.options.limit else ():
            rows[i] |= {
                "status": "dropped",
                "reason": f"not among the first {self.options.limit}, which were asked for",
            }
        taken = set(usable)
        return [*usable, *(i for i in range(len(rows)) if i not in taken)]

    def _settings(self, listed: PairFile) -> dict[str, object]:
        options = self.options.model_dump() | {"splits": ", ".join(self.options.splits)}
        wanted = "all that the file lists" if self.options.limit is None else self.options.limit
        del options["limit"]
        return {"pairs asked for": wanted, "file": listed.name, "rows": len(listed.rows), **options}

    def _leaks(self, rows: Sequence[Mapping[str, Any]], checker: RowChecker) -> list[str]:
        items = {item for row in rows if row["status"] == "ok" for item in (row["a_id"], row["b_id"])}
        used = Counter(checker.split_of[item] for item in items)
        return [
            f"items of split {split} in the pairs: {used[split]}; what is measured on {split} has been seen"
            for split in ("val", "test")
            if used[split]
        ]

    def _notes(self, rows: list[dict[str, Any]], made: int, n_pairs: int) -> list[str]:
        count = Counter(row["status"] for row in rows)
        lines = [f"images that were no items before, added in split train: {made}"] if made else []
        alike = sum(row["status"] == "ok" and row["env_a"] == row["env_b"] for row in rows)
        if alike:
            lines.append(f"pairs within one environment, which show nothing of what changes: {alike}")
        if self.options.limit is not None:
            lines += shortfall_note(self.options.limit, count["ok"], "the file has no more that can be used")
        elif count["ok"] > n_pairs:
            lines.append(
                f"all {count['ok']} pairs of the file are taken; 'pairs' of the configuration, {n_pairs}, "
                "does not cut a list, --pairs N or option 'limit' does"
            )
        return lines


def _reasons(rows: Sequence[Mapping[str, Any]], unit: str) -> list[str]:
    """A line a kind of fault, the most frequent first: how many rows have it, and the first that has it."""
    first: dict[str, Mapping[str, Any]] = {}
    count: Counter[str] = Counter()
    for row in rows:
        if row["status"] == "rejected":
            kind = str(row["reason"]).partition(": ")[0]
            first.setdefault(kind, row)
            count[kind] += 1
    told = count.most_common(REASONS_TOLD)
    lines = [f"{n}, such as {unit} {first[kind]['line']}: {first[kind]['reason']}" for kind, n in told]
    left = sum(count.values()) - sum(n for _, n in told)
    return [*lines, *([f"{left} for other reasons: see the card"] if left else [])]


def _carry(table: pa.Table, listed: PairFile, order: Sequence[int]) -> pa.Table:
    """`table` with the file's other columns; one whose name is taken already is named ``file_NAME``."""
    taken = {field.name for field in PAIRS.fields} | {*OWN_COLUMNS, *FACTS}
    for name, values in listed.others.items():
        free = name
        while free in taken:
            free = f"file_{free}"
        taken.add(free)
        table = table.append_column(free, values.take(pa.array(order, pa.int64())))
    return table
