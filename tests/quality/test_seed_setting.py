"""The synthetic setting of Noisy Counterfactual Matching: removing its twenty directions is best."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs import CounterfactualProjection, fit_sweep
from cfpairs.quality import assess_pairs
from tests.quality.worlds import frame, off

D, S, RANKS = 100, 20, (10, 15, 18, 20, 22, 25, 50)
L2 = 1e-3


class Setting:
    """Items and pairs of one seed; the shortcut has variance .001 and .01 in training, 10 elsewhere."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng([8, seed])
        self.axes = frame(D, D, self.rng)
        self.theta, self.n = self.rng.normal(size=D - S), n
        self.train, self.oracle, self.test = (self.items(v) for v in ((0.001, 0.01), (10.0,), (10.0,)))

    def items(self, variances: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """X and y."""
        z = self.rng.normal(size=(self.n, D - S))
        y = np.sign(z @ self.theta)
        sigma = np.sqrt(np.resize(variances, self.n))[:, None]
        shortcut = y[:, None] / S + sigma * self.rng.normal(size=(self.n, S))
        return np.hstack([shortcut, z]) @ self.axes.T, (y > 0).astype(int)

    def pairs(self, k: int, eps: float) -> np.ndarray:
        """Differences: both sides have a shortcut of their own."""
        a, b = self.rng.normal(size=(2, k, S))
        noise = eps / np.sqrt(D) * self.rng.normal(size=(k, D))
        return np.asarray(np.sqrt(10.0) * (a - b) @ self.axes[:, :S].T + noise)

    def accuracy(self, pairs: np.ndarray | None, ranks: tuple[int, ...]) -> list[float]:
        """On test, for every r; of a probe on the test domain's own items without pairs."""
        X, y = self.train if pairs is not None else self.oracle
        sweep = fit_sweep(
            X, y, differences=pairs, methods=["erm" if pairs is None else "ncm"], r=ranks, C=[1 / L2 / self.n]
        )
        return list((sweep.predict(self.test[0]) == self.test[1][:, None]).mean(axis=0))


def test_removing_the_shortcuts_twenty_directions_is_best_and_as_good_as_the_oracle() -> None:
    setting = Setting(4000, 0)
    (oracle,) = setting.accuracy(None, (0,))
    exact = setting.pairs(20, 0.0)
    assert off(CounterfactualProjection(S).fit(exact).directions_, setting.axes[:, :S]) < 1e-8
    assert setting.accuracy(exact, (S,))[0] > oracle - 0.005
    few = tuple(r for r in RANKS if r <= S)
    assert np.argmax(setting.accuracy(setting.pairs(100, 0.0), few)) == len(few) - 1
    for eps in (1.0, 10.0):
        found = setting.accuracy(setting.pairs(100, eps), RANKS)
        assert RANKS[int(np.argmax(found))] == S
        assert found[RANKS.index(15)] < oracle - 0.2 and found[-1] < oracle - 0.1


@pytest.mark.parametrize("eps", [1.0, 5.0, 10.0])
def test_a_hundred_noisy_pairs_show_twenty_directions(eps: float) -> None:
    quality = assess_pairs(Setting(8, 1).pairs(100, eps), draws=0)
    assert quality.rank == S
    assert quality.sigma == pytest.approx(eps / np.sqrt(D), rel=0.05)
