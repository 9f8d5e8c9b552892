"""Fish: a probe that walks where the gradients of the environments agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cfpairs.errors import DataError
from cfpairs.probes.adam import Batch, Field, residual
from cfpairs.probes.convex import check_number
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.gradient import GradientMethod, GradientProbe
from cfpairs.probes.method import FitData, Need, Setting, Value

__all__ = ["Fish", "FishClassifier"]


class FishClassifier(GradientProbe):
    """Logistic regression by inner steps on one environment after the other.

    Parameters
    ----------
    lr : float, default=0.3
        Of the inner steps, in coordinates where every axis has the same curvature. As it goes to 0 the probe
        becomes logistic regression in which every environment has the same say.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    eps : float, default=0.5
        Share of the way to the inner steps' end that an outer step goes; at most 1.
    steps : int, default=40
        Outer steps.
    random_state, device
        As in `IRMClassifier`; the order of the environments is drawn anew every step.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    Notes
    -----
    From theta, one step ``theta~ <- theta~ - lr * grad (CE_e + ||theta||^2 / (2 C n))`` an environment e, in
    random order; then ``theta <- theta + eps * (theta~ - theta)`` (algorithm 1 of the reference, whose
    first-order effect is to raise the inner products of the environments' gradients). Looks at labels and
    environments; without ``env`` all rows are one environment, and the probe is ERM.

    References
    ----------
    Shi et al. (2021). Gradient Matching for Domain Generalization.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> FishClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        lr: float = 0.3,
        C: float = 1.0,
        *,
        eps: float = 0.5,
        steps: int = 40,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)
        self.eps = eps

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> FishClassifier:
        """Fit the probe; see `IRMClassifier.fit`."""
        if not 0 < check_number(self.eps, "eps") <= 1:
            raise DataError("eps cannot be used", got=repr(self.eps), expected="a number over 0, at most 1")
        params: dict[str, Value] = {"eps": self.eps, "lr": self.lr, "steps": self.steps}
        self._fit_by(Fish(self.device), X, y, sample_weight, env, params)
        return self


class Fish(GradientMethod):
    """``fish``: logistic regression by inner steps on one environment after the other; looks at them."""

    name: ClassVar[str] = "fish"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    stochastic: ClassVar[bool] = True
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "eps": (0.1, 0.5),
        "lr": (0.1, 0.3, 1.0),
        "steps": (40,),
    }
    schedule: ClassVar[tuple[str, ...]] = ("steps",)

    def fit_batch(
        self, data: FitData, settings: Sequence[Setting], rngs: Sequence[np.random.Generator]
    ) -> LinearFits:
        """All settings of a seed walk through the environments in the same order."""
        rng = rngs[0]
        field = Field(data, settings, self.device)
        lr = field.per_fit([s.number("lr") for s in settings])
        eps = field.per_fit([s.number("eps") for s in settings])
        steps = int(settings[0].number("steps"))
        W, b = field.W0.clone(), field.b0.clone()
        norm = torch.zeros_like(lr)
        whole, parts = None, []
        for batch in field.batches(steps, rng):
            if batch is not whole:
                whole = batch
                parts = [batch.take(torch.nonzero(batch.env == e)[:, 0]) for e in torch.unique(batch.env)]
            inner_W, inner_b = W, b
            for number in rng.permutation(len(parts)):
                part = parts[int(number)]
                g, gb = _gradient(field, part, inner_W, inner_b)
                inner_W = inner_W - lr[None, :, None] * field.scale.square()[:, :, None] * g
                inner_b = inner_b - lr[:, None] * field.intercept_scale**2 * gb
                norm = (g.square().sum(dim=(0, 2)) + gb.square().sum(dim=1)).sqrt()
            W = W + eps[None, :, None] * (inner_W - W)
            b = b + eps[:, None] * (inner_b - b)
        return field.finish(W, b, norm, steps)


def _gradient(field: Field, batch: Batch, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    slope = residual(batch.logits(W, b), batch.target).mul_(batch.weight[:, None, None])
    return batch.pull(slope) + field.ridge[None, :, None] * W, slope.sum(dim=0)
