"""Distances between sets of features, against loops over pairs of sets and torch's autograd."""

import time

import numpy as np
import pytest
import torch

from cfpairs.probes.distances import GAMMAS, causal_cuts, coral, mmd, pair_weights
from cfpairs.probes.method import FitData, Rows
from cfpairs.registry import resolve


def assert_close(found, expected, atol=1e-9, rtol=1e-7):
    """torch.testing's own takes seconds to import."""
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), atol=atol, rtol=rtol)


@pytest.fixture
def features():
    F = torch.tensor(np.random.default_rng(0).normal(size=(2, 20, 3)), requires_grad=True)
    return F, torch.tensor([0] * 6 + [1] * 5 + [2] * 8 + [3])


def naive_coral(F, sets):
    parts = [F[sets == s] for s in range(3)]
    total = 0.0
    for a in range(3):
        for b in range(a):
            mean = (parts[a].mean(dim=0) - parts[b].mean(dim=0)).square().mean()
            total = total + mean + (torch.cov(parts[a].T) - torch.cov(parts[b].T)).square().mean()
    return total / 3


def naive_mmd(A, B):
    def kernel(U, V):
        apart = (U[:, None] - V[None]).square().sum(dim=2)
        return sum(torch.exp(-gamma * apart) for gamma in GAMMAS).mean()

    return kernel(A, A) + kernel(B, B) - 2 * kernel(A, B)


def test_coral(features):
    F, sets = features
    expected = torch.stack([naive_coral(F[i], sets) for i in range(2)])
    (slope,) = torch.autograd.grad(expected.sum(), F)
    found = coral(F.detach(), sets)
    assert_close(found[0], expected.detach())
    assert_close(found[1], slope)


def test_mmd(features):
    F, sets = features
    F, sets = F[:, :-1], sets[:-1]
    total = torch.stack(
        [
            sum(naive_mmd(F[i, sets == a], F[i, sets == b]) for a in range(3) for b in range(a)) / 3
            for i in range(2)
        ]
    )
    (slope,) = torch.autograd.grad(total.sum(), F)
    found = mmd(F.detach(), pair_weights(sets, F.dtype))
    assert_close(found[0], total.detach(), atol=1e-8, rtol=1e-7)
    assert_close(found[1], slope, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("distance", ["coral", "mmd"])
def test_sets_alike_are_no_distance_apart_and_sets_unlike_are(distance):
    rng = np.random.default_rng(0)
    half = rng.normal(size=(1, 30, 4))
    sets = torch.tensor([0] * 30 + [1] * 30)

    def apart(F):
        F = torch.tensor(F)
        found = coral(F, sets) if distance == "coral" else mmd(F, pair_weights(sets, F.dtype))
        return float(found[0][0])

    assert apart(np.concatenate([half, half], axis=1)) == pytest.approx(0.0, abs=1e-12)
    assert apart(np.concatenate([half, half + 1.0], axis=1)) > 0.1
    assert apart(np.concatenate([half, 3.0 * half], axis=1)) > 0.1


def test_one_set_has_no_distance(features):
    F = features[0].detach()
    for sets in (torch.zeros(20, dtype=torch.int64), torch.tensor([0] * 19 + [1])):
        distance, slope = coral(F, sets)
        assert not distance.any() and not slope.any()
    method = resolve("probes", "causirl-mmd")()
    distance, slope = method.measure(F, torch.tensor([0] * 19 + [1]))
    assert not distance.any() and not slope.any()


def test_cuts_are_uniform_in_every_environment():
    rng = np.random.default_rng(0)
    env = np.array([0, 1, 0, 1, 1, 0, 1])
    drawn = np.stack([causal_cuts(env, 2, rng) for _ in range(4000)])
    for e, size in ((0, 3), (1, 4)):
        part = drawn[:, env == e]
        assert (np.diff(part, axis=1) >= 0).all()
        share = np.bincount((part == 0).sum(axis=1), minlength=size + 1) / 4000
        np.testing.assert_allclose(share, 1 / (size + 1), atol=0.03)
    first, second = ((drawn[:, env == e] == 0).sum(axis=1) for e in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06


def test_the_cost_of_causirl_does_not_grow_with_the_number_of_environments(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1200, 8)), np.arange(1200) % 2
    method = resolve("probes", "causirl-coral")()
    settings = method.settings((0,), (0.1,), 4, {"steps": (20,)})
    shapes = []
    measure = type(method).measure

    def counted(self, F, sets):
        shapes.append((F.shape[1], len(torch.unique(sets))))
        return measure(self, F, sets)

    monkeypatch.setattr(type(method), "measure", counted)

    def seconds(n_env):
        data = FitData(Rows(X, y, rng.integers(0, n_env, 1200)), 2, n_env)
        best = np.inf
        for _ in range(4):
            begun = time.thread_time()
            method.fit(data, settings, [0] * 4)
            best = min(best, time.thread_time() - begun)
        return best

    few, many = seconds(2), seconds(100)
    assert len(shapes) == 2 * 4 * 20
    assert {rows for rows, _ in shapes} == {64} and max(sets for _, sets in shapes) == 2
    assert many < 2 * few
