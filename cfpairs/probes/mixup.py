"""Mixup and LISA: probes that are fitted to rows mixed two by two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from cfpairs.probes.adam import Batch, Field, by_stream, residual
from cfpairs.probes.convex import check_number
from cfpairs.probes.gradient import DescendingMethod, GradientProbe
from cfpairs.probes.method import FitData, Need, Setting, Value

__all__ = ["LISA", "LISAClassifier", "Mixup", "MixupClassifier", "lisa_partners"]

QUANTILES = 4096
"""Shares are drawn among so many equally likely values."""


class MixupClassifier(GradientProbe):
    """Logistic regression on rows mixed with other rows, and labels mixed alike.

    Parameters
    ----------
    alpha : float, default=0.2
        Shares are drawn from Beta(alpha, alpha); 0 mixes nothing and is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    steps, lr, random_state, device
        As in `IRMClassifier`; partners and shares are drawn anew every step.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    LISAClassifier : partners that share the label or the environment.

    Notes
    -----
    ``mean_i CE(l_i y_i + (1 - l_i) y_j, z(l_i x_i + (1 - l_i) x_j)) + ||theta||^2 / (2 C n)`` with j = j(i) a
    random permutation. Looks at training labels alone.

    References
    ----------
    Zhang, Cisse, Dauphin, Lopez-Paz (2018). mixup: Beyond Empirical Risk Minimization.

    Examples
    --------
    >>> MixupClassifier().fit(np.array([[-1.0], [1.0]]), [0, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        alpha: float = 0.2,
        C: float = 1.0,
        *,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.alpha = alpha
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any) -> MixupClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        params: dict[str, Value] = {
            "alpha": check_number(self.alpha, "alpha"),
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(Mixup(self.device), X, y, None, None, params)
        return self


class LISAClassifier(GradientProbe):
    """Logistic regression on rows mixed within a label or within an environment.

    Parameters
    ----------
    p_sel : float, default=0.5
        How often a row is mixed with one of the same label in another environment; else with one of another
        label in the same environment. A row without such a partner stays as it is.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    alpha : float, default=2.0
        Shares are drawn from Beta(alpha, alpha); 0 mixes nothing and is ERM.
    steps, lr, random_state, device
        As in `IRMClassifier`; partners and shares are drawn anew every step.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    MixupClassifier : any partner.

    Notes
    -----
    The objective is that of `MixupClassifier`. Looks at labels and environments; without ``env`` all rows
    are one environment.

    References
    ----------
    Yao et al. (2022). Improving Out-of-Distribution Robustness via Selective Augmentation.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> LISAClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        p_sel: float = 0.5,
        C: float = 1.0,
        *,
        alpha: float = 2.0,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.p_sel = p_sel
        self.alpha = alpha
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any, *, env: Any = None) -> LISAClassifier:
        """Fit the probe; see `IRMClassifier.fit`. Rows have no weights: which are mixed is drawn."""
        params: dict[str, Value] = {
            "p_sel": check_number(self.p_sel, "p_sel"),
            "alpha": check_number(self.alpha, "alpha"),
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(LISA(self.device), X, y, None, env, params)
        return self


class Mixed:
    """Cross-entropy of mixed rows. Logits are linear, so that mixing them is mixing the rows.

    Parameters
    ----------
    field : Field
    alpha : ndarray of shape (f,)
    p_sel : ndarray of shape (f,) or None
        None: any partner.
    rngs : sequence of numpy Generator, length f
        Fits of a seed share one, and the uniform numbers that partners and shares are made of: what a fit
        draws does not depend on the others.
    """

    def __init__(
        self,
        field: Field,
        alpha: NDArray[np.float64],
        p_sel: NDArray[np.float64] | None,
        rngs: Sequence[np.random.Generator],
    ) -> None:
        self.field = field
        streams = by_stream(rngs)
        self.streams = [rng for rng, _ in streams]
        self.share = field.per_fit([1.0] * len(alpha))
        stream = np.zeros(len(alpha))
        for k, (_, fits) in enumerate(streams):
            stream[fits] = k
        kinds = np.stack([alpha, alpha if p_sel is None else p_sel, stream], axis=1)
        found, place = np.unique(kinds, axis=0, return_inverse=True)
        self.place = place.reshape(-1)
        self.selections = None if p_sel is None else found[:, 1]
        self.stream = found[:, 2].astype(np.int64)
        self.quantiles = np.stack([_beta_quantiles(a) for a in found[:, 0]])
        self.known: tuple[Batch, _Others, _Others] | None = None

    def slope(self, z: Tensor, batch: Batch) -> Tensor:
        """Slope of the mixed rows' loss in the logits of the rows themselves."""
        n = len(batch)
        at = np.stack([(rng.random(n) * QUANTILES).astype(np.int64) for rng in self.streams])
        drawn = np.take_along_axis(self.quantiles, at[self.stream], axis=1)
        own = self.field.tensor(drawn.T[:, self.place])[:, :, None]
        rows = torch.as_tensor(self._partners(batch)[:, self.place], device=z.device)
        other = rows[:, :, None].expand_as(z)
        target = batch.target.expand_as(z)
        mixed = z.gather(0, other).lerp_(z, own)
        off = residual(mixed, target.gather(0, other).lerp_(target, own))
        off *= batch.weight[:, None, None]
        kept = own * off
        return kept.scatter_add(0, other, off.sub_(kept))

    def _partners(self, batch: Batch) -> NDArray[np.int64]:
        """Partner of every row, one column a kind of fit."""
        n = len(batch)
        if self.selections is None:
            return np.stack([rng.permutation(n) for rng in self.streams], axis=1)[:, self.stream]
        if self.known is None or self.known[0] is not batch:
            y, env = batch.y.cpu().numpy(), batch.env.cpu().numpy()
            self.known = batch, _Others(y, env), _Others(env, y)
        _, across, within = self.known
        drawn = [(rng.random(n), rng.random(n)) for rng in self.streams]
        choice = np.stack([first for first, _ in drawn], axis=1)[:, self.stream]
        elsewhere = np.stack([across.draw(at) for _, at in drawn], axis=1)[:, self.stream]
        here = np.stack([within.draw(at) for _, at in drawn], axis=1)[:, self.stream]
        return np.where(choice < self.selections, elsewhere, here)


def _beta_quantiles(alpha: float) -> NDArray[np.float64]:
    """Equally likely shares of Beta(alpha, alpha); 1 where alpha is 0."""
    if alpha == 0:
        return np.ones(QUANTILES)
    return np.asarray(betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES))


class _Others:
    """For every row, those with its `same` and another `other`.

    Parameters
    ----------
    same, other : ndarray of int, shape (n,)
    """

    def __init__(self, same: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        self.order = np.lexsort((other, same))
        code = same * (int(other.max()) + 1) + other
        self.low, high = (np.searchsorted(same[self.order], same, side=side) for side in ("left", "right"))
        self.own, past = (np.searchsorted(code[self.order], code, side=side) for side in ("left", "right"))
        self.skip = past - self.own
        self.possible = (high - self.low) - self.skip

    def draw(self, at: NDArray[np.float64]) -> NDArray[np.int64]:
        """The row `at` that part of the possible ones, 0 <= at < 1; the row itself where there is none."""
        pick = self.low + np.minimum((at * self.possible).astype(np.int64), np.maximum(self.possible - 1, 0))
        pick = np.where(pick >= self.own, pick + self.skip, pick)
        return np.where(
            self.possible > 0, self.order[np.minimum(pick, len(at) - 1)], np.arange(len(at), dtype=np.int64)
        )


def lisa_partners(
    y: NDArray[np.int64], env: NDArray[np.int64], p_sel: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Partner of every row: the same label elsewhere with probability `p_sel`, else another label here.

    Parameters
    ----------
    y, env : ndarray of int, shape (n,)
    p_sel : float
    rng : numpy Generator

    Returns
    -------
    ndarray of int, shape (n,)
        Drawn uniformly among the possible ones; the row itself where there is none.
    """
    choice, at = rng.random(len(y)), rng.random(len(y))
    return np.where(choice < p_sel, _Others(y, env).draw(at), _Others(env, y).draw(at))


class Mixup(DescendingMethod):
    """``mixup``: logistic regression on mixed rows; looks at training labels alone."""

    name: ClassVar[str] = "mixup"
    stochastic: ClassVar[bool] = True
    pools_seeds: ClassVar[bool] = True
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "alpha": (0.1, 0.2, 0.4, 1.0, 2.0, 8.0),
        "lr": (0.05,),
        "steps": (60,),
    }

    def objective(
        self,
        data: FitData,
        settings: Sequence[Setting],
        field: Field,
        rngs: Sequence[np.random.Generator],
    ) -> Mixed:
        """The alpha of every setting."""
        return Mixed(field, np.array([s.number("alpha") for s in settings]), None, rngs)


class LISA(DescendingMethod):
    """``lisa``: logistic regression on rows mixed within a label or an environment; looks at both."""

    name: ClassVar[str] = "lisa"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    stochastic: ClassVar[bool] = True
    pools_seeds: ClassVar[bool] = True
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "alpha": (2.0,),
        "lr": (0.05,),
        "p_sel": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
        "steps": (60,),
    }

    def objective(
        self,
        data: FitData,
        settings: Sequence[Setting],
        field: Field,
        rngs: Sequence[np.random.Generator],
    ) -> Mixed:
        """The p_sel and alpha of every setting."""
        return Mixed(
            field,
            np.array([s.number("alpha") for s in settings]),
            np.array([s.number("p_sel") for s in settings]),
            rngs,
        )
