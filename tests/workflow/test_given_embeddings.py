"""Embeddings that someone has already: taken in by item id, whatever files they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import png

from cfpairs.config import parse_config
from cfpairs.datasets.listing import Table, TableOptions
from cfpairs.encoders.factory import open_encoder
from cfpairs.errors import CfpairsError
from cfpairs.tables import file_metadata, load_manifest
from cfpairs.vectors import Embeddings, part_files, read_embeddings
from cfpairs.workflow import Context, embed, make_manifest, run_stages, stage_states
from cfpairs.workflow.embeddings import encoder_id, unembedded

N, DIM = 60, 6


def world(n: int = N) -> tuple[dict[str, list[str]], np.ndarray]:
    """Columns of a table, the label following the environment in training, and a vector for each row."""
    rng = np.random.default_rng(0)
    label, split = rng.integers(0, 2, n), np.repeat(["train", "test"], [n - n // 3, n // 3])
    env = np.where((split == "train") & (rng.random(n) < 0.8), label, rng.integers(0, 2, n))
    vectors = rng.normal(size=(n, DIM)) + 2 * np.outer(2 * label - 1, np.eye(DIM)[0])
    vectors += 3 * np.outer(2 * env - 1, np.eye(DIM)[1])
    columns = {
        "id": [f"s{i:03d}" for i in range(n)],
        "label": [("benign", "malignant")[y] for y in label],
        "site": [f"site {e}" for e in env],
        "split": split.tolist(),
    }
    return columns, vectors.astype(np.float16)


def write_csv(root: Path, columns: dict[str, list[str]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


def lists(vectors: np.ndarray, *, fixed: bool = True) -> pa.Array:
    if fixed:
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.array(list(vectors))


def write_npy(root: Path) -> None:
    columns, vectors = world()
    write_csv(root, columns)
    np.save(root / "embeddings.npy", vectors)


def write_npy_by_column(root: Path) -> None:
    columns, vectors = world()
    write_csv(root, columns)
    np.save(root / "embeddings.npy", np.asfortranarray(vectors.astype(">f8")))


def write_npy_parts(root: Path) -> None:
    columns, vectors = world()
    write_csv(root, columns)
    (root / "features").mkdir()
    for i, part in enumerate(np.array_split(vectors, 11)):
        np.save(root / "features" / f"part{i}.npy", part.astype(np.float32))


def write_parquet(root: Path, *, fixed: bool = True) -> None:
    columns, vectors = world()
    write_csv(root, columns)
    order = np.random.default_rng(1).permutation(N)
    made = {"id": [columns["id"][i] for i in order], "v": lists(vectors[order].astype(float), fixed=fixed)}
    pq.write_table(pa.table(made), root / "vectors.parquet", row_group_size=7)


def write_parquet_lists(root: Path) -> None:
    write_parquet(root, fixed=False)


def write_parquet_parts(root: Path) -> None:
    columns, vectors = world()
    write_csv(root, columns)
    for i in range(3):
        made = pa.table({"item_id": columns["id"][i::3], "v": lists(vectors[i::3])})
        pq.write_table(made, root / f"emb-{i}.parquet")


def write_one_parquet(root: Path) -> None:
    columns, vectors = world()
    root.mkdir(parents=True)
    pq.write_table(pa.table({**columns, "embedding": lists(vectors)}), root / "everything.parquet")


def write_clip_retrieval(root: Path, *, table: bool = False) -> None:
    columns, vectors = world()
    paths = [f"/somewhere/{i}.jpg" for i in columns["id"]]
    if table:
        write_csv(root, {**columns, "image_path": paths, "id": [f"own-{i}" for i in columns["id"]]})
        columns = {"caption": columns["id"]}
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    order = np.random.default_rng(2).permutation(N) if table else np.arange(N)
    for i, rows in enumerate(np.array_split(order, 11)):
        listed = {name: [values[r] for r in rows] for name, values in columns.items()}
        listed |= {"image_path": [paths[r] for r in rows], "key": [f"{r:08d}" for r in rows]}
        pq.write_table(pa.table(listed), root / "metadata" / f"metadata_{i}.parquet")
        np.save(root / "img_emb" / f"img_emb_{i}.npy", vectors[rows])


def write_clip_retrieval_beside_a_table(root: Path) -> None:
    write_clip_retrieval(root, table=True)


LAYOUTS = [
    write_npy,
    write_npy_by_column,
    write_npy_parts,
    write_parquet,
    write_parquet_lists,
    write_parquet_parts,
    write_one_parquet,
    write_clip_retrieval,
    write_clip_retrieval_beside_a_table,
]


def context(root: Path, encoder: dict[str, Any] | None = None, **options: Any) -> Context:
    """As `init` starts it, with some options named."""
    found = Table(TableOptions.model_validate(options)).starting(root)
    values = {
        "workspace": str(root.parent / "work"),
        "data": {"preset": "table", "root": str(root), "options": found["data"]["options"] | options},
        "encoder": found.get("encoder", {}) | {"part_rows": 16} | (encoder or {}),
        "pairs": [{"method": "random", "pairs": 16}],
        "probe": {"r": "0:2", "C": [1.0], "seeds": [0], "folds": 2, "selection": ["pairs"]},
    }
    return Context(parse_config(values))


def taken(made: Context) -> Embeddings:
    embed(made)
    return read_embeddings(made.workspace.embeddings(encoder_id(made)))


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(CfpairsError) as caught:
        embed(context(root, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_each_item_its_own_vector(tmp_path: Path, write: Any) -> None:
    root = tmp_path / "data"
    write(root)
    made = context(root)
    found = taken(made)
    columns, vectors = world()
    ids = columns["id"]
    if write is write_clip_retrieval_beside_a_table:
        ids = [f"own-{i}" for i in ids]
    assert np.array_equal(found.rows(ids), vectors.astype(np.float32))
    assert len(found) == N and found.matrix.dtype == np.float32
    manifest = load_manifest(made.workspace)
    assert manifest["item_id"].to_pylist() == ids
    assert manifest["label_name"].to_pylist() == columns["label"]
    assert set(manifest["path"].to_pylist()) == {""} and set(manifest["width"].to_pylist()) == {0}


def test_images_beside_the_vectors_are_not_what_they_were_made_from(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, {**columns, "path": [f"{i}.png" for i in columns["id"]]})
    np.save(root / "embeddings.npy", vectors)
    for i in columns["id"]:
        (root / f"{i}.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    made = context(root, {"spec": "given"}, embeddings="embeddings.npy")
    embed(made)
    assert unembedded(made) == [] and not embed(made).made
    assert {s.stage: s.state for s in stage_states(made)}["embeddings"] == "done"


def test_what_is_written_is_what_every_encoder_writes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    made = context(root, {"store": "float16"})
    result = embed(made)
    assert "given, 60 of 60 items taken in, none encoded" in result.summary
    again = embed(made)
    assert not again.made and "given, 60 items, up to date" in again.summary
    folder = made.workspace.embeddings(encoder_id(made))
    parts = part_files(folder)
    assert folder.name.startswith("given-") and [pq.read_metadata(p).num_rows for p in parts] == [
        16,
        16,
        16,
        12,
    ]
    metadata = file_metadata(parts[0])
    assert metadata["encoder_id"] == folder.name and metadata["dtype"] == "float16"
    assert metadata["precision"] == "float16" and metadata["normalisation"] == "as given"
    assert json.loads(metadata["files"]) == [str(root / "embeddings.npy")]
    found = read_embeddings(folder)
    assert found.matrix.dtype == np.float16
    assert np.array_equal(found.rows(world()[0]["id"]), world()[1])


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfpairs.embedding.parts import Parts

    root = tmp_path / "data"
    write_npy_parts(root)
    made = context(root)
    write, calls = Parts.write, []

    def stop_at_third(self: Parts, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, *arguments)

    monkeypatch.setattr(Parts, "write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        embed(made)
    folder = made.workspace.embeddings(encoder_id(made))
    assert len(part_files(folder)) == 2
    monkeypatch.setattr(Parts, "write", write)
    assert embed(made).data["new"] == N - 32
    resumed = [file.read_bytes() for file in part_files(folder)]
    for file in part_files(folder):
        file.unlink()
    embed(made)
    assert [file.read_bytes() for file in part_files(folder)] == resumed


def test_the_identity_follows_the_vectors_and_the_table(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    first = encoder_id(context(root))
    assert encoder_id(context(root, drop_missing=True)) == first
    columns, vectors = world()
    np.save(root / "embeddings.npy", vectors + np.eye(N, DIM, dtype=np.float16))
    second = encoder_id(context(root))
    write_csv(root, {name: values[::-1] for name, values in columns.items()})
    third = encoder_id(context(root))
    assert len({first, second, third}) == 3
    assert np.array_equal(
        taken(context(root)).rows(columns["id"][::-1]), vectors + np.eye(N, DIM, dtype="f2")
    )


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    vectors = world()[1].astype(np.float64)
    vectors[4, 2], vectors[40, 0], vectors[41, 1] = np.nan, np.inf, 1e300
    np.save(root / "embeddings.npy", vectors)
    for _ in range(2):
        line = refusal(root)
        assert "got 3 of 60, such as 's004' (embeddings.npy row 4), 's040'" in line and "drop_missing" in line
    result = embed(context(root, drop_missing=True))
    assert result.data["failed"] == 3 and "3 given vectors are missing or not finite" in result.notes[0]
    found = taken(context(root, drop_missing=True))
    assert len(found) == N - 3 and "s004" not in found
    assert "embeddings are missing or not finite" in refusal(root)
    np.save(root / "embeddings.npy", np.full((N, DIM), np.nan))
    assert "not one of 60" in refusal(root, drop_missing=True)


def test_an_empty_list_is_a_missing_vector(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, columns)
    values = [None if i == 3 else v for i, v in enumerate(vectors)]
    pq.write_table(pa.table({"id": columns["id"], "v": pa.array(values)}), root / "v.parquet")
    assert "got 1 of 60, such as 's003' (v.parquet row 3)" in refusal(root)


def test_items_without_a_vector(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, columns)
    pq.write_table(pa.table({"id": columns["id"][2:], "v": lists(vectors[2:])}), root / "v.parquet")
    line = refusal(root)
    assert "without an embedding (first item 's000')" in line and "2 of 60: cases.csv line 2" in line
    found = taken(context(root, drop_missing=True))
    assert np.array_equal(found.rows(columns["id"][2:]), vectors[2:].astype(np.float32))
    assert len(load_manifest(tmp_path / "work")) == N - 2


def test_ids_that_repeat_or_match_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, columns)
    pq.write_table(pa.table({"id": ["s001", *columns["id"][1:]], "v": lists(vectors)}), root / "v.parquet")
    assert "items have two vectors by 'id': got 1, such as 's001'" in refusal(root)
    pq.write_table(
        pa.table({"id": ["x" + i for i in columns["id"]], "v": lists(vectors)}), root / "v.parquet"
    )
    line = refusal(root)
    assert "id 'xs000' and item 's000'" in line and "--set embedding_id=" in line
    pq.write_table(pa.table({"own": columns["id"], "v": lists(vectors)}), root / "v.parquet")
    assert "no column that looks like an id" in refusal(root)
    assert len(taken(context(root, embedding_id="own"))) == N
    assert "no column 'none'" in refusal(root, embedding_id="none")


def test_rows_and_vectors_must_be_as_many(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    np.save(root / "embeddings.npy", world()[1][:50])
    assert "50 vectors in embeddings.npy, 60 rows in cases.csv" in refusal(root)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([{"a": 1}] * N, dtype=object), "pickled Python objects, which are refused"),
        (np.zeros(N), "wrong shape: got (60,)"),
        (np.zeros((N, 2, 3)), "wrong shape: got (60, 2, 3)"),
        (np.zeros((N, 0)), "wrong shape"),
        (np.zeros((0, DIM)), "0 vectors in embeddings.npy, 60 rows"),
        (np.zeros((N, DIM), np.int32), "no embeddings: got int32"),
        (np.zeros((N, DIM), np.complex64), "no embeddings: got complex64"),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path: Path, array: np.ndarray, said: str) -> None:
    root = tmp_path / "data"
    write_npy(root)
    np.save(root / "embeddings.npy", array, allow_pickle=True)
    assert said in refusal(root)


@pytest.mark.parametrize(("keep", "said"), [(400, "cut short"), (60, "npy"), (0, "cut short or empty")])
def test_npy_files_that_are_cut_short(tmp_path: Path, keep: int, said: str) -> None:
    root = tmp_path / "data"
    write_npy(root)
    file = root / "embeddings.npy"
    file.write_bytes(file.read_bytes()[:keep])
    assert said in refusal(root)
    states = {state.stage: state for state in stage_states(context(root))}
    assert states["embeddings"].state in ("unknown", "missing")


def test_other_files_by_the_name_of_npy(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    (root / "embeddings.npy").write_bytes(b"no array at all, but long enough to look at" * 9)
    assert "no npy file" in refusal(root)
    with (root / "embeddings.npy").open("wb") as file:
        np.savez(file, a=world()[1])
    assert "npz archive" in refusal(root)


def test_parts_that_do_not_go_together(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy_parts(root)
    np.save(root / "features" / "part3.npy", np.zeros((6, DIM + 1), np.float32))
    assert "differ in dimension: got 6 in part10.npy, 7 in part3.npy" in refusal(root)
    np.save(root / "features" / "part3.npy", np.zeros((6, DIM), np.float32))
    pq.write_table(pa.table({"v": lists(world()[1])}), root / "features" / "more.parquet")
    assert "files of one kind" in refusal(root, embeddings="features")
    assert len(taken(context(root, embeddings="features/*.npy"))) == N
    assert "there are no embeddings" in refusal(root, embeddings="none.npy")
    assert "there are no embeddings" in refusal(root, embeddings="none*.npy")


def test_parquet_vectors_that_differ_in_length(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, columns)
    values = [v[: DIM - (i == 30)] for i, v in enumerate(vectors)]
    pq.write_table(pa.table({"id": columns["id"], "v": pa.array(values)}), root / "v.parquet")
    assert "differ in length: got 5 numbers in v.parquet row 30, expected 6" in refusal(root)


def test_which_column_of_vectors(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, columns)
    two = pa.table({"id": columns["id"], "image": lists(vectors), "text": lists(-vectors)})
    pq.write_table(two, root / "v.parquet")
    assert "2 columns of vectors: got 'image', 'text'" in refusal(root)
    found = taken(context(root, embedding_column="text"))
    assert np.array_equal(found.rows(columns["id"]), -vectors.astype(np.float32))
    assert "no column 'id' of vectors" in refusal(root, embedding_column="id")


def test_parts_of_clip_retrieval_must_match(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_clip_retrieval(root)
    np.save(root / "img_emb" / "img_emb_4.npy", np.zeros((2, DIM), np.float16))
    listed = pq.read_metadata(root / "metadata" / "metadata_4.parquet").num_rows
    assert f"2 in img_emb_4.npy, {listed} in metadata_4.parquet" in refusal(root)
    (root / "img_emb" / "img_emb_4.npy").unlink()
    assert "10 of img_emb, 11 of metadata; number 4 stands alone" in refusal(root)


def test_a_data_set_without_embeddings_cannot_give_them(tmp_path: Path) -> None:
    for preset in ("digits", "table"):
        data = {"preset": preset, "root": str(tmp_path)}
        made = Context(parse_config({"workspace": str(tmp_path), "data": data, "encoder": {"spec": "given"}}))
        with pytest.raises(CfpairsError, match="brings no embeddings"):
            encoder_id(made)


def test_the_given_encoder_encodes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_npy(root)
    encoder = open_encoder(context(root).config.encoder)
    for call in (encoder.load, lambda: encoder.encode(np.zeros((1, 3, 8, 8), np.float32))):
        with pytest.raises(CfpairsError, match="no image can be encoded"):
            call()
    with pytest.raises(CfpairsError, match="takes no argument"):
        open_encoder(context(root, {"spec": "given:x.npy"}).config.encoder)
    with pytest.raises(CfpairsError, match="the items have no images"):
        embed(context(root, {"spec": "lite"}))


def test_images_that_are_there_are_kept_beside_given_embeddings(tmp_path: Path) -> None:
    root = tmp_path / "data"
    columns, vectors = world()
    write_csv(root, {"path": [f"{i}.png" for i in columns["id"]], **columns})
    np.save(root / "embeddings.npy", vectors)
    (root / "s001.png").write_bytes(png(np.zeros((4, 5, 3), np.uint8)))
    made = context(root)
    make_manifest(made)
    manifest = load_manifest(made.workspace)
    assert manifest["path"].to_pylist() == ["", (root / "s001.png").as_posix(), *[""] * (N - 2)]
    assert manifest["width"].to_pylist()[:3] == [0, 5, 0]


def test_everything_after_embedding_works(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_clip_retrieval(root)
    made = context(root)
    stages = [result.stage for result in run_stages(made)]
    assert stages == ["manifest", "pairs:random", "embeddings", "embeddings", "probe", "report"]
    assert {state.state for state in stage_states(made)} == {"done"}
    page = made.workspace.report_html.read_text()
    assert 'class="sides"' in page and "no image" not in page
    written = json.loads(made.workspace.report_json.read_text())["provenance"]
    assert written["weights_sha256"] is None and len(written["embedding_files"]) == 11
