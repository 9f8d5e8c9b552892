"""VIAE: the bound, the constraint, training that resumes, and pairs in both spaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fakes import DEFAULT_COUNTS, fake_embeddings, fake_manifest
from numpy.typing import NDArray

from cfpairs.config import Config, DataConfig, EncoderConfig, PairConfig, ProbeConfig
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.transfer import training
from cfpairs.pairs.transfer.builder import TransferBuilder, TransferOptions
from cfpairs.pairs.transfer.moments import EPSILON, FEW, UNSEEN, CovarianceGap, EnvironmentNorm
from cfpairs.pairs.transfer.options import ModelOptions
from cfpairs.pairs.transfer.training import train_viae
from cfpairs.pairs.transfer.viae import VIAE, divergence, prior_means
from cfpairs.probes.erm import ERMClassifier
from cfpairs.tables import load_manifest
from cfpairs.vectors import Embeddings
from cfpairs.workflow.context import Context
from cfpairs.workflow.embeddings import _have_images, embed, embeddings_state
from cfpairs.workflow.pairs import build_pairs, pairs_state
from cfpairs.workflow.probing import probe
from cfpairs.workflow.reporting import report
from cfpairs.workspace import Workspace

SMALL = ModelOptions(inv_dim=4, width=8, hidden=32, epochs=20, batch=32, rate=5e-3)
BRIEF = SMALL.model_copy(update={"epochs": 1})
COUNTS = {key: 4 * n for key, n in DEFAULT_COUNTS.items() if key[0] == "train"} | {
    key: n for key, n in DEFAULT_COUNTS.items() if key[0] != "train"
}


def two_worlds(n: int = 240) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors whose first coordinate says the environment and whose others do not."""
    rng = np.random.default_rng(0)
    env = np.arange(n) % 2
    x = rng.normal(size=(n, 5))
    x[:, 0] = 0.3 * x[:, 0] + 2 * (2 * env - 1)
    return x.astype(np.float32), env


@pytest.fixture(scope="module")
def trained() -> VIAE:
    return train_viae(*two_worlds(), SMALL, 0)


def test_the_divergence_is_that_of_the_distributions() -> None:
    mean, log_variance, prior = (torch.randn(3, 4) for _ in range(3))
    own = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    whole = torch.distributions.kl_divergence(own, torch.distributions.Normal(prior, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance, prior), whole)


def test_the_bound_is_its_three_parts() -> None:
    model = VIAE((3,), 2, inv_dim=2, width=4, hidden=16)
    x, env = torch.randn(6, 3), torch.tensor([0, 1] * 3)
    codes = model.encode(x, env, torch.Generator().manual_seed(1))
    found = model.elbo(x, env, codes)
    deviation = torch.exp(0.5 * model.log_variance)
    drawn = torch.distributions.Normal(model.decode(codes.inv, codes.env), deviation)
    torch.testing.assert_close(found.likelihood, drawn.log_prob(x).sum(1).mean())
    torch.testing.assert_close(found.bound, found.likelihood - found.inv - found.env)


def test_prior_means_are_orthogonal_and_equally_long() -> None:
    means = prior_means(3, 5, 4.0)
    torch.testing.assert_close(means @ means.T, 16 * torch.eye(3))


def test_each_row_goes_through_the_encoder_of_its_environment() -> None:
    model = VIAE((3,), 2, inv_dim=2, width=4, hidden=16)
    x = torch.randn(4, 3)
    single = [encoder(x)[0] for encoder in model.environments]
    found, _ = model.environmental(x, torch.tensor([0, 1, 0, UNSEEN]))
    expected = torch.stack([single[0][0], single[1][1], single[0][2], (single[0][3] + single[1][3]) / 2])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)])
def test_images_come_back_in_their_size(shape: tuple[int, ...]) -> None:
    model = VIAE(shape, 2, inv_dim=3, width=4, hidden=16)
    moved, kept = model.transfer(torch.rand(2, *shape), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert moved.shape == kept.shape == (2, *shape)
    assert model.sample(torch.zeros(2, 3), torch.tensor([0, 1])).shape == (2, *shape)


def test_the_environment_moves_and_the_rest_stays(trained: VIAE) -> None:
    x, env = (torch.from_numpy(part) for part in two_worlds())
    with torch.inference_mode():
        moved, kept = trained.transfer(x, env, 1 - env)
        sampled = trained.sample(torch.zeros(50, 4), torch.ones(50, dtype=torch.int64), torch.randn(50, 2))
    assert ((moved[:, 0] > 0) == (env == 0)).float().mean() > 0.97
    assert ((kept[:, 0] > 0) == (env == 1)).float().mean() > 0.97
    assert (moved - kept)[:, 0].abs().mean() > 5 * (moved - kept)[:, 1:].abs().mean()
    assert (sampled[:, 0] > 0).float().mean() > 0.95


def means_apart(z: torch.Tensor, env: torch.Tensor) -> float:
    return float((z[env == 0].mean(0) - z[env == 1].mean(0)).abs().max())


def test_after_training_no_linear_classifier_tells_the_environment_from_z_inv(trained: VIAE) -> None:
    x, env = (torch.from_numpy(part) for part in two_worlds())
    with torch.inference_mode():
        codes = trained.encode(x, env)
        features = trained.invariant.trunk(x)
        raw, _ = trained.invariant.raw(x, codes.env)

    def told(z: torch.Tensor) -> float:
        probe = ERMClassifier(C=1.0, tol=1e-6).fit(z.double().numpy(), env.numpy())
        return float((probe.predict(z.double().numpy()) == env.numpy()).mean())

    assert means_apart(codes.inv_mean, env) < 1e-5 and told(codes.inv_mean) < 0.6
    spread = codes.inv_mean[env == 0].var(0, correction=0)
    torch.testing.assert_close(spread, codes.inv_mean[env == 1].var(0, correction=0), atol=0.05, rtol=0)
    for without in (raw, features):  # the control: the same encoder before its norms
        assert means_apart(without, env) > 0.05 and told(without) > 0.6


def test_the_norm_takes_the_moments_of_each_environment_out() -> None:
    env = torch.tensor([0, 1] * 50)
    z = (
        torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * (1 + 2 * env[:, None])
        + 4 * env[:, None]
    )
    norm = EnvironmentNorm(2, 3)
    for part in (norm(z, env), *(norm(z, env) for _ in range(2))):
        for own in (part[env == 0], part[env == 1]):
            torch.testing.assert_close(own.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
            torch.testing.assert_close(own.var(0, correction=0), torch.ones(3), atol=2e-3, rtol=0)
    norm.eval().settle([(z[:30], env[:30], torch.ones(30)), (z[30:], env[30:], torch.ones(70))])
    assert means_apart(norm(z, env), env) < 1e-5
    whole = (z - z[env == 1].mean(0)) / (z[env == 1].var(0, correction=0) + EPSILON).sqrt()
    both = (norm(z, torch.zeros(100, dtype=torch.int64)) + whole) / 2
    torch.testing.assert_close(norm(z, torch.full((100,), UNSEEN)), both, atol=1e-4, rtol=1e-4)


def test_weights_say_what_the_moments_of_an_environment_are_of() -> None:
    z, env = torch.tensor([[0.0], [0.0], [0.0], [4.0], [1.0]]), torch.tensor([0, 0, 0, 0, 1])
    norm = EnvironmentNorm(2, 1)
    norm.settle([(z, env, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0, 1.0]))])
    torch.testing.assert_close(norm.mean[:, 0], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(norm.variance[:, 0], torch.tensor([4.0, 0.0]))


def test_an_environment_of_few_items_in_a_batch_is_not_centred_by_them() -> None:
    norm, rng = EnvironmentNorm(2, 1), np.random.default_rng(0)
    env = torch.tensor([0] * 60 + [1] * (FEW - 1))
    alone = torch.tensor([[3.0]])
    for _ in range(1500):
        z = torch.from_numpy(rng.normal(size=(len(env), 1)).astype(np.float32)) + 5.0 * env[:, None]
        norm(z, env)
    found = norm(torch.cat([z[:60], alone]), torch.cat([env[:60], torch.ones(1, dtype=torch.int64)]))
    assert float(found[-1]) == pytest.approx(-2.0, abs=0.3)  # its own mean would make it nought


def test_the_constraint_is_the_distance_of_the_covariances() -> None:
    rng, env = torch.Generator().manual_seed(0), torch.arange(4000) % 2
    z = torch.randn(4000, 2, generator=rng)
    turned = torch.where(env[:, None] == 1, z @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]), z)
    same, apart = CovarianceGap(2, 2), CovarianceGap(2, 2)
    for _ in range(20):
        near, far = same(z, env), apart(turned, env)
    # Covariances of .6 and 0, two entries, each .3 from their average, twice.
    assert float(far) == pytest.approx(2 * 2 * 0.3**2, rel=0.1) and float(near) < 0.01
    assert float(apart(z[env == 0], env[env == 0])) == 0.0
    moving = turned.clone().requires_grad_()
    apart(moving, env).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        assert float(apart(moving - 50.0 * moving.grad, env)) < float(apart(moving, env))


def test_a_broken_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, env = two_worlds(80)
    options = SMALL.model_copy(update={"epochs": 4})
    whole = train_viae(x, env, options, 3)
    monkeypatch.setattr(training, "SAVED_EVERY", -1.0)
    state, epoch = tmp_path / "state.pt", training._epoch

    def killed(*args: object) -> None:
        if args[-1] == (3, 2):
            raise KeyboardInterrupt
        epoch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_viae(x, env, options, 3, state=state)
    seen: list[object] = []

    def counted(*args: object) -> None:
        seen.append(args[-1])
        epoch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_epoch", counted)
    resumed = train_viae(x, env, options, 3, state=state)
    assert seen == [(3, 2), (3, 3)]
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    state.write_bytes(b"no state")
    train_viae(x, env, options.model_copy(update={"epochs": 1}), 3, state=state)
    assert seen[2:] == [(3, 0)]


def test_what_cannot_be_learnt_from_is_said() -> None:
    x, env = two_worlds(60)
    with pytest.raises(DataError, match="needs two of them"):
        train_viae(x, np.zeros_like(env), SMALL, 0)
    with pytest.raises(DataError, match="too few items to learn from: got 5 of 60"):
        train_viae(x, (np.arange(60) < 5).astype(np.int64), SMALL, 0)
    x[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        train_viae(x, env, SMALL, 0)


def build(manifest: pa.Table, workspace: Workspace, n: int = 12, **options: object) -> object:
    given = {"model": SMALL, "checks": {"embedding": False}} | options
    inputs = BuildInputs(workspace, "transfer", manifest, n, 0, fake_embeddings(manifest))
    return TransferBuilder(TransferOptions(**given)).build(inputs)  # type: ignore[arg-type]


def test_small_images_are_moved_as_files(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    manifest = fake_manifest(workspace, COUNTS, size=12)
    made = build(manifest, workspace, space="image", model=BRIEF)
    assert made.counts() == {"ok": 12} and made.vectors is None  # type: ignore[attr-defined]
    for row in made.items.to_pylist():  # type: ignore[attr-defined]
        assert (row["origin"], row["width"], row["height"]) == ("transfer", 12, 12)
        assert workspace.file(row["path"]).is_file() and row["parent_id"]
    large = fake_manifest(Workspace(tmp_path / "large"), COUNTS, size=70)
    with pytest.raises(DataError, match="too large for the autoencoder"):
        build(large, Workspace(tmp_path / "large"), space="image")


def test_vectors_keep_what_the_autoencoder_cannot_draw(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    manifest = fake_manifest(workspace, COUNTS, size=8)
    given = fake_embeddings(manifest)
    made = build(manifest, workspace, dims=3)
    again = build(manifest, workspace, n=8, dims=3)
    vectors: Embeddings = made.vectors  # type: ignore[attr-defined]
    pairs = made.pairs.to_pylist()  # type: ignore[attr-defined]
    change = vectors.rows([p["b_id"] for p in pairs]) - given.rows([p["a_id"] for p in pairs])
    assert np.linalg.matrix_rank(change, tol=1e-4) == 3  # the components that it was shown
    assert again.pairs.equals(made.pairs.slice(0, 8))  # type: ignore[attr-defined]
    flat = replace(BuildInputs(workspace, "t", manifest, 4, 0), embeddings=None)
    with pytest.raises(DataError, match="needs embeddings"):
        TransferBuilder(TransferOptions()).build(flat)
    with pytest.raises(ConfigError):
        TransferBuilder(ModelOptions())


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A table of embeddings alone, as a data set of the preset ``table``."""
    manifest = fake_manifest(
        Workspace(tmp_path / "drawn"), {k: 4 * n for k, n in DEFAULT_COUNTS.items()}, size=8
    )
    np.save(tmp_path / "vectors.npy", fake_embeddings(manifest).matrix)
    rows = manifest.select(["item_id", "split", "label_name", "env_name"]).to_pylist()
    lines = ["item_id,split,label,env", *(",".join(row.values()) for row in rows)]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    options = {"table": "items.csv", "embeddings": "vectors.npy"}
    return Context(
        Config(
            workspace=tmp_path / "work",
            data=DataConfig(preset="table", root=tmp_path, options=options),
            pairs=(pair(),),
            encoder=EncoderConfig(spec="given"),
            probe=ProbeConfig(methods=("erm", "ncm"), C=(0.1,), seeds=(0,)),
        )
    )


def pair(**more: object) -> PairConfig:
    return PairConfig(method="transfer", pairs=12, options={"model": SMALL.model_dump(), **more})


def test_items_without_an_image_go_through_every_later_command(context: Context) -> None:
    assert build_pairs(context, pair()).data["counts"]["ok"] == 12
    assert embeddings_state(context)[0] == "missing"
    assert embed(context).data["new"] == 12 + 64  # those of val and test too
    assert embed(context).data["new"] == 0 and embeddings_state(context)[0] == "done"
    results = probe(context).data["results"]
    assert {row["pair_set"] for row in results if row["method"] == "ncm"} == {"transfer"}
    made = load_manifest(context.workspace)["item_id"].to_pylist()[-1]
    assert made.startswith("transfer-") and made in Path(report(context).data["html"]).read_text()
    assert not build_pairs(context, pair()).made and pairs_state(context, pair())[0] == "done"
    assert set(load_manifest(context.workspace)["path"].to_pylist()) == {""}


def test_lost_vectors_and_those_of_another_encoder_are_told_from_images(context: Context) -> None:
    build_pairs(context, pair())
    folder = context.workspace.pair_vectors("transfer")
    for part in folder.iterdir():
        part.unlink()
    folder.rmdir()
    with pytest.raises(CfpairsError, match="are gone"):
        embed(context)
    with pytest.raises(ConfigError, match="makes images, which need an encoder"):
        build_pairs(context, pair(space="image"))


def test_vectors_that_a_pair_set_made_ask_the_encoder_for_nothing(tmp_path: Path) -> None:
    made = pa.table({"item_id": ["m"], "path": [""], "pair_set": ["transfer"]})
    alone = pa.table({"item_id": ["a"], "path": [""], "pair_set": pa.array([None], pa.string())})
    image = pa.table({"item_id": ["i"], "path": ["i.png"], "pair_set": pa.array([None], pa.string())})
    tables = {
        True: (made, image, pa.concat_tables([alone, image])),
        False: (alone, pa.concat_tables([made, alone])),
    }
    for expected, several in tables.items():
        for table in several:
            pq.write_table(table, tmp_path / "items.parquet")
            assert _have_images(table) == _have_images(tmp_path / "items.parquet") == expected


def test_another_number_of_pairs_trains_nothing_again(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_pairs(context, pair())
    monkeypatch.setattr(training, "_epoch", None)
    fewer = pair().model_copy(update={"pairs": 6})
    assert build_pairs(context, fewer).data["counts"]["ok"] == 6
