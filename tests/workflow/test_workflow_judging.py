"""The judge of edits: the encoder on pixels in memory, and a label probe that a background cannot fool."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from embedding_runs import MeanEncoder
from fakes import DEFAULT_COUNTS, fake_workspace
from PIL import Image

from cfpairs.config import Config, EncoderConfig, PairConfig, PreprocessConfig
from cfpairs.embedding import embed_items
from cfpairs.errors import CfpairsError, ConfigError
from cfpairs.preprocessing import Preprocessor
from cfpairs.tables import load_manifest
from cfpairs.vectors import read_embeddings
from cfpairs.workflow import embeddings as embedding_stage
from cfpairs.workflow import judging, pairs
from cfpairs.workflow.context import Context
from cfpairs.workflow.judging import EncoderJudge, LabelProbe, environment_shifts, open_judge

BATCH = 4


class CountingEncoder(MeanEncoder):
    """`MeanEncoder` that counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> CountingEncoder:
    made = CountingEncoder()
    for module in (judging, embedding_stage):
        monkeypatch.setattr(module, "open_encoder", lambda _config: made)
    return made


@pytest.fixture
def context(tmp_path: Path) -> Context:
    counts = {key: 3 * n for key, n in DEFAULT_COUNTS.items() if key[0] == "train"}
    workspace = fake_workspace(tmp_path / "work", counts, size=16)
    return Context(Config(workspace=workspace.root, encoder=EncoderConfig(batch_size=BATCH, part_rows=16)))


@pytest.fixture
def judge(context: Context, encoder: CountingEncoder) -> Iterator[EncoderJudge]:
    with open_judge(context, load_manifest(context.workspace), "edit") as found:
        yield found


def test_training_items_are_embedded_first_and_the_encoder_is_closed_at_the_end(
    context: Context, encoder: CountingEncoder
) -> None:
    manifest = load_manifest(context.workspace)
    with pytest.raises(KeyError), open_judge(context, manifest, "edit") as judge:
        assert sorted(judge.training().item_ids) == sorted(manifest["item_id"].to_pylist())
        assert encoder.closed == 0 and judge.encoder_id == encoder.info.id
        raise KeyError
    assert encoder.closed == 1


@pytest.mark.parametrize("store", ["float32", "float16"])
@pytest.mark.parametrize("standardize", ["none", "train"])
def test_vectors_equal_those_of_the_written_image(
    context: Context, encoder: CountingEncoder, tmp_path: Path, store: str, standardize: str
) -> None:
    context = context.with_config(
        encoder=context.config.encoder.model_copy(update={"store": store}),
        preprocess=PreprocessConfig(standardize=standardize),
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 24, 3)).astype(np.uint8) for _ in range(7)]
    manifest = load_manifest(context.workspace)
    rows = manifest.slice(0, 7).to_pylist()
    for row, image in zip(rows, images, strict=True):
        row["path"] = str(tmp_path / f"{row['item_id']}.png")
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        Path(row["path"]).write_bytes(file.getvalue())
    with open_judge(context, manifest, "edit") as judge:
        found = judge.encode(images)
    written = embed_items(
        manifest.from_pylist(rows, schema=manifest.schema),
        workspace=type(context.workspace)(tmp_path / "other"),
        encoder=encoder,
        batch_size=BATCH,
        store=store,
    )
    raw = read_embeddings(context.workspace.embeddings(encoder.info.id))
    preprocessor = Preprocessor(context.config.preprocess).fit(raw.rows(manifest["item_id"].to_pylist()))
    stored = read_embeddings(written.folder).rows([row["item_id"] for row in rows])
    assert np.array_equal(found, preprocessor.transform(stored).astype(np.float32))
    assert {len(batch) for batch in encoder.batches} == {BATCH}


def test_training_vectors_are_preprocessed(judge: EncoderJudge) -> None:
    training = judge.training()
    assert np.allclose((training.matrix**2).sum(axis=1), training.dim)


def test_text_is_asked_of_encoders_that_have_it(
    context: Context, judge: EncoderJudge, encoder: CountingEncoder
) -> None:
    assert judge.encode_text(["a"]) is None
    encoder.encode_text = lambda prompts: np.array([[3.0, 4.0]] * len(prompts))  # type: ignore[attr-defined]
    assert np.allclose(judge.encode_text(["a", "b"]), [[0.6, 0.8]] * 2)
    said: list[str] = []

    def unreachable(_prompts: object) -> None:
        raise CfpairsError("the tokenizer cannot be had")

    encoder.encode_text = unreachable  # type: ignore[attr-defined]
    judge._progress = SimpleNamespace(say=said.append)  # type: ignore[assignment]
    assert judge.encode_text(["a"]) is None and said == [
        "texts are not compared: the tokenizer cannot be had"
    ]
    other = context.with_config(preprocess=PreprocessConfig(standardize="train"))
    with open_judge(other, load_manifest(context.workspace), "edit") as standardised:
        assert standardised.encode_text(["a"]) is None


def test_an_item_without_an_embedding_is_left_out(context: Context, encoder: CountingEncoder) -> None:
    manifest = load_manifest(context.workspace)
    first = manifest.to_pylist()[0]
    context.workspace.file(first["path"]).write_bytes(b"nothing")
    with open_judge(context, manifest, "edit") as judge:
        assert first["item_id"] not in judge.training()
        assert len(judge.training()) == len(manifest) - 1
        vectors = judge.encode([np.zeros((16, 16, 3), np.uint8) + 90])
        assert judge.label_logits(vectors, [first["item_id"]]).shape == (1, 2)


def world(n: int, d: int = 24, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Vectors of 2 labels x 2 environments, 95 % of each label in its own environment, two rows a subject."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(0, 2, n // 2), 2)
    env = np.repeat(np.where(rng.random(n // 2) < 0.95, label[::2], 1 - label[::2]), 2)
    X = rng.normal(size=(n, d))
    X[:, 0] += 1.5 * (2 * label - 1)
    X[:, 1] += 4 * (2 * env - 1)
    return X, label, env, np.array([f"s{i // 2}" for i in range(n)])


def test_the_label_probe_does_not_lean_on_the_environment() -> None:
    X, label, env, subject = world(600)
    probe = LabelProbe(X, label, env, subject)
    other = world(600, seed=1)
    moved = other[0].copy()
    moved[:, 1] -= 8 * (2 * other[2] - 1)
    fold = np.zeros(600, np.int64)
    change = probe.logits(moved, fold) - probe.logits(other[0], fold)
    spread = np.diff(probe.logits(other[0], fold), axis=1).std()
    assert np.abs(np.diff(change, axis=1)).mean() < 0.15 * spread
    assert probe.accuracy > 0.85
    # The control: weighed as they come and with the environment in reach, moving turns the probe over.
    from cfpairs.probes.erm import ERMClassifier

    plain = ERMClassifier(C=1e-2).fit(X, label)
    swing = np.abs(plain.decision_function(moved) - plain.decision_function(other[0])).mean()
    assert swing > 0.8 * plain.decision_function(other[0]).std()


def test_each_row_is_judged_by_a_fit_without_its_subject() -> None:
    """Labels of pure noise cannot be told on rows that a fit has not seen; on those it has seen they can."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 80)), 2, axis=0) + 0.01 * rng.normal(size=(120, 80))
    label, env = np.repeat(rng.integers(0, 2, 60), 2), np.repeat(rng.integers(0, 2, 60), 2)
    probe = LabelProbe(X, label, env, [f"s{i // 2}" for i in range(120)], ridges=(1.0,))
    right = [
        (probe.logits(X, fold).argmax(axis=1) == label).mean() for fold in (probe.fold, (probe.fold + 1) % 5)
    ]
    assert right[0] < 0.7 and right[1] > 0.9
    assert all(len(set(probe.fold[i : i + 2])) == 1 for i in range(0, 120, 2))


def test_three_labels_have_a_column_each_and_one_subject_is_no_hindrance() -> None:
    rng = np.random.default_rng(0)
    label, env = np.repeat([2, 5, 9], 20), np.tile([0, 1], 30)
    X = np.eye(3)[np.repeat([0, 1, 2], 20)] * 4 + rng.normal(size=(60, 3)) * 0.3
    probe = LabelProbe(X, label, env, ["same"] * 60)
    found = probe.logits(X, probe.fold)
    assert found.shape == (60, 3) and (np.array([2, 5, 9])[found.argmax(axis=1)] == label).all()


def test_environment_shifts_are_within_labels() -> None:
    X = np.array([[0.0, 0, 0], [0, 2, 0], [9, 0, 0], [9, 2, 0]], np.float32)
    Q = environment_shifts(X, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert Q.shape == (3, 1) and np.allclose(np.abs(Q[:, 0]), [0, 1, 0])
    assert environment_shifts(X, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])).shape == (3, 0)


def test_a_pair_set_that_is_judged_depends_on_the_encoder(
    context: Context, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "source_digest", lambda _context: "")
    plain = PairConfig(options={"checks": {"embedding": False}})

    def print_of(pair: PairConfig, name: str) -> str:
        encoder.info = replace(encoder.info, name=name)
        return pairs._fingerprint(context, pair, pairs.open_builder(pair))

    assert print_of(PairConfig(), "one") != print_of(PairConfig(), "two")
    assert print_of(plain, "one") == print_of(plain, "two")


def test_what_the_autoencoder_of_an_earlier_version_moved_is_stale(
    context: Context, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "source_digest", lambda _context: "")
    pair = PairConfig(method="transfer")
    builder = pairs.open_builder(pair)
    now = pairs._fingerprint(context, pair, builder)
    assert now == pairs._fingerprint(context, pair, builder)
    monkeypatch.setattr(type(builder), "version", 1)
    assert pairs._fingerprint(context, pair, builder) != now


def test_given_embeddings_and_edits_are_one_clear_line(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = context.with_config(encoder=EncoderConfig(spec="given"))
    monkeypatch.setattr(pairs, "make_manifest", lambda _context: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="method 'edit' makes images") as caught:
        pairs.build_pairs(given, PairConfig())
    assert "\n" not in str(caught.value)


def test_only_what_items_and_rejected_pairs_name_stays_on_disk(context: Context) -> None:
    folder = context.workspace.pair_images("edit")
    folder.mkdir(parents=True)
    for name in ("item.png", "item.mask.png", "rejected.png", "stray.png"):
        (folder / name).write_bytes(b"x")
    manifest = pa.table(
        {"path": ["pairs/edit/images/item.png"], "mask_path": ["pairs/edit/images/item.mask.png"]}
    )
    table = pa.table({"rejected_path": [None, "pairs/edit/images/rejected.png"]})
    pairs._prune_images(context, "edit", manifest, table)
    assert sorted(p.name for p in folder.iterdir()) == ["item.mask.png", "item.png", "rejected.png"]
