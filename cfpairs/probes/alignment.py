"""Probes whose learned features are distributed alike: CORAL, MMD, and CausIRL with either."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfpairs.errors import DataError
from cfpairs.probes.adam import Adam, Batch, Field, by_stream, residual
from cfpairs.probes.convex import check_number
from cfpairs.probes.distances import causal_cuts, coral, mmd, pair_weights
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.gradient import GradientMethod, GradientProbe
from cfpairs.probes.method import FitData, Need, Setting, Value

__all__ = [
    "CORAL",
    "MMD",
    "AlignmentClassifier",
    "CausIRLCORAL",
    "CausIRLClassifier",
    "CausIRLMMD",
]

BATCH_ROWS = 64
"""Rows that a step measures the distance on."""


class AlignmentClassifier(GradientProbe):
    """Logistic regression on a learned linear map, whose features are alike in every environment.

    Parameters
    ----------
    distance : {"coral", "mmd"}, default="coral"
        Of means and covariances, or the maximum mean discrepancy.
    penalty_weight : float, default=10.0
        lambda; 0 is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention, on the product of map and classifier.
    p : int, default=64
        Features of the learned map.
    steps, lr, random_state, device
        As in `IRMClassifier`; the map begins at random but for the direction of the start, and a step
        measures the distance on 64 rows drawn at random, as many of every environment.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_`` is the classifier times the map.

    See Also
    --------
    CausIRLClassifier : one distance, however many environments there are.

    Notes
    -----
    With ``f(x) = W1 x`` and logits ``W2 f(x) + b``, every row of W2 of length 1: ``CE + lambda * mean_{a<b}
    dist(f(X_a), f(X_b)) + ||W2 W1||^2 / (2 C n)`` over pairs of environments. CORAL is ``mean (mu_a - mu_b)^2
    + mean (Cov_a - Cov_b)^2``; MMD has the kernel ``sum_g exp(-g ||u - v||^2)``, g from 1e-3 to 1e3. Were W2
    free in length, smaller features and a larger classifier would do away with any distance and leave the
    predictions as they are. Looks at labels and environments; without ``env`` all rows are one
    environment, and the probe is ERM.

    References
    ----------
    Sun, Saenko (2016). Deep CORAL: Correlation Alignment for Deep Domain Adaptation.
    Gretton, Borgwardt, Rasch, Schoelkopf, Smola (2006). A Kernel Method for the Two-Sample-Problem.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> AlignmentClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    causal: ClassVar[bool] = False

    def __init__(
        self,
        distance: str = "coral",
        penalty_weight: float = 10.0,
        C: float = 1.0,
        *,
        p: int = 64,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.distance = distance
        self.penalty_weight = penalty_weight
        self.p = p
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> AlignmentClassifier:
        """Fit the probe; see `IRMClassifier.fit`. Weights of rows are those of their losses."""
        if self.distance not in ("coral", "mmd"):
            raise DataError("distance is unknown", got=repr(self.distance), expected="'coral' or 'mmd'")
        p = check_number(self.p, "p", strictly=True)
        params: dict[str, Value] = {
            "lambda": check_number(self.penalty_weight, "penalty_weight"),
            "p": int(p),
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(_METHODS[self.causal, self.distance](self.device), X, y, sample_weight, env, params)
        return self


class CausIRLClassifier(AlignmentClassifier):
    """Logistic regression on a learned linear map, whose features do not tell mixtures of environments apart.

    Parameters
    ----------
    distance, penalty_weight, C, p, steps, lr, random_state, device
        As in `AlignmentClassifier`.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_`` is the classifier times the map.

    See Also
    --------
    AlignmentClassifier : a distance for every pair of environments.

    Notes
    -----
    The objective of `AlignmentClassifier` with one distance a step: of every environment's rows in the batch
    those before a cut, drawn uniformly from 0 to all of them, go into A, the rest into B, and the distance
    is that of f(A) and f(B) (algorithm 1 of the reference). The batch has 64 rows however many
    environments there are, so that the cost does not grow with them.

    References
    ----------
    Chevalley, Bunne, Krause, Bauer (2022). Invariant Causal Mechanisms through Distribution Matching.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> CausIRLClassifier("mmd").fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    causal: ClassVar[bool] = True


class AlignmentMethod(GradientMethod):
    """A distance on features of a learned linear map.

    Attributes
    ----------
    distance : {"coral", "mmd"}
    causal : bool
        One distance between two mixtures of the environments, instead of one for every pair of them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    stochastic: ClassVar[bool] = True
    pools_seeds: ClassVar[bool] = True
    schedule: ClassVar[tuple[str, ...]] = ("lr", "p", "steps")
    distance: ClassVar[str]
    causal: ClassVar[bool] = False

    def fit_batch(
        self, data: FitData, settings: Sequence[Setting], rngs: Sequence[np.random.Generator]
    ) -> LinearFits:
        """All settings of a seed begin at the same map and see the same rows."""
        field = Field(data, settings, self.device)
        strength = field.per_fit([s.number("lambda") for s in settings])
        steps, lr = int(settings[0].number("steps")), settings[0].number("lr")
        streams = by_stream(rngs)
        two = _TwoLayers(field, int(settings[0].number("p")), lr, steps, streams)
        places = _Places(data.rows.env)
        for batch in field.batches(steps, rngs[0]):
            pulls = []
            for rng, fits in streams if places.n_env > 1 else []:
                drawn, env = places.draw(rng)
                sets = causal_cuts(env, places.n_env, rng) if self.causal else env
                rows = field.all.X[torch.as_tensor(drawn, device=field.device)]
                of = torch.as_tensor(fits, device=field.device)
                _, slope = self.measure(two.features(rows, of), torch.as_tensor(sets, device=field.device))
                pulls.append((of, rows, strength[of, None, None] * slope))
            two.step(batch, pulls)
        return field.finish(two.product(), two.b, two.norm, steps)

    def measure(self, F: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
        """The distance on features (f, b, p) and its slope; 0 unless two sets have more than one row."""
        if self.distance == "coral":
            return coral(F, sets)
        kept = torch.nonzero(torch.bincount(sets)[sets] > 1)[:, 0]
        distance, slope = mmd(F[:, kept], pair_weights(sets[kept], F.dtype))
        return distance, torch.zeros_like(F).index_copy_(1, kept, slope)


class _Places:
    """Where the rows of every environment are."""

    def __init__(self, env: NDArray[np.int64]) -> None:
        self.order = np.argsort(env, kind="stable")
        counts = np.bincount(env)
        first = np.cumsum(counts) - counts
        self.counts, self.first = counts[counts > 0], first[counts > 0]
        self.n_env = len(self.counts)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of a batch and their environments: as many of each, at least two, with replacement."""
        chosen = rng.permutation(self.n_env)[: BATCH_ROWS // 2]
        env = chosen[np.arange(BATCH_ROWS) % len(chosen)]
        rows = self.order[self.first[env] + (rng.random(len(env)) * self.counts[env]).astype(np.int64)]
        return rows, env


class _TwoLayers:
    """Map (f, m, p), classifier (f, p, c) and intercepts of a batch, and their optimiser."""

    def __init__(
        self,
        field: Field,
        p: int,
        lr: float,
        steps: int,
        streams: Sequence[tuple[np.random.Generator, NDArray[np.int64]]],
    ) -> None:
        m, f, c = field.W0.shape
        self.field, p = field, max(p, c)
        self.scale = field.scale.T[:, :, None].contiguous()
        start = field.W0.permute(1, 0, 2) / self.scale
        # The classifier's rows begin orthonormal, the map at random but for what the classifier reads.
        size = start.square().sum(dim=1, keepdim=True).mean(dim=2, keepdim=True).sqrt() / math.sqrt(m)
        V, free = start.new_empty((f, p, c)), start.new_empty((f, m, p))
        for rng, fits in streams:
            V[fits] = field.tensor(np.linalg.qr(rng.normal(size=(p, c)))[0])
            free[fits] = field.tensor(rng.normal(size=(m, p)))
        free *= size
        self.U = free + (start - free @ V) @ V.transpose(1, 2)
        self.A = V.clone()
        self.moved_b = torch.zeros_like(field.b0)
        self.norm = field.ridge.new_zeros(f)
        self.adam = Adam([self.U, self.A, self.moved_b], lr, steps)

    @property
    def b(self) -> Tensor:
        return self.field.b0 + self.field.intercept_scale * self.moved_b

    def _classifier(self) -> tuple[Tensor, Tensor]:
        """W2, its rows of length 1, shape (f, p, c); and the lengths."""
        length = self.A.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return self.A / length, length

    def product(self) -> Tensor:
        """Weights of the logits, shape (m, f, c)."""
        return (self.scale * (self.U @ self._classifier()[0])).permute(1, 0, 2).contiguous()

    def features(self, rows: Tensor, fits: Tensor) -> Tensor:
        """What the maps of some fits make of rows (b, m), shape (fits, b, p)."""
        return rows @ (self.scale[fits] * self.U[fits])

    def step(self, batch: Batch, pulls: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """One step on the loss of `batch`, and for every pull on the features of some fits on some rows."""
        V, length = self._classifier()
        W = (self.scale * (self.U @ V)).permute(1, 0, 2)
        off = residual(batch.logits(W, self.b), batch.target).mul_(batch.weight[:, None, None])
        g = batch.pull(off) + self.field.ridge[None, :, None] * W
        along = self.scale * g.permute(1, 0, 2)
        gU = along @ V.transpose(1, 2)
        for fits, rows, slope in pulls:
            gU.index_add_(0, fits, self.scale[fits] * (rows.T @ slope))
        gV = self.U.transpose(1, 2) @ along
        gA = (gV - V * (V * gV).sum(dim=1, keepdim=True)) / length
        gb = off.sum(dim=0)
        self.norm = (
            gU.square().sum(dim=(1, 2)) + gA.square().sum(dim=(1, 2)) + gb.square().sum(dim=1)
        ).sqrt()
        self.adam.step([gU, gA, self.field.intercept_scale * gb])


class CORAL(AlignmentMethod):
    """``coral``: features with the same mean and covariance in every environment; looks at environments."""

    name: ClassVar[str] = "coral"
    distance: ClassVar[str] = "coral"
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "lambda": (0.1, 0.3, 1.0, 3.0, 10.0, 100.0),
        "lr": (0.05,),
        # 64 features reach the same worst group at two to three times the cost.
        "p": (16,),
        "steps": (40,),
    }


class MMD(CORAL):
    """``mmd``: features with the same distribution in every environment; looks at environments."""

    name: ClassVar[str] = "mmd"
    distance: ClassVar[str] = "mmd"
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        **CORAL.grid,
        "lambda": (3.0, 10.0, 30.0, 100.0, 300.0, 1e3),
    }


class CausIRLCORAL(CORAL):
    """``causirl-coral``: `coral` between two mixtures of the environments; looks at environments."""

    name: ClassVar[str] = "causirl-coral"
    causal: ClassVar[bool] = True


class CausIRLMMD(MMD):
    """``causirl-mmd``: `mmd` between two mixtures of the environments; looks at environments."""

    name: ClassVar[str] = "causirl-mmd"
    causal: ClassVar[bool] = True


_METHODS: dict[tuple[bool, str], type[AlignmentMethod]] = {
    (method.causal, method.distance): method for method in (CORAL, MMD, CausIRLCORAL, CausIRLMMD)
}
