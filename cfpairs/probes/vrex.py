"""Risk extrapolation: a probe whose risk is the same in every environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from cfpairs.probes.adam import Batch, cross_entropy
from cfpairs.probes.convex import check_number
from cfpairs.probes.gradient import GradientProbe
from cfpairs.probes.irm import Penalised, PenalisedMethod
from cfpairs.probes.method import Setting, Value

__all__ = ["VREX", "VREXClassifier"]


class VREXClassifier(GradientProbe):
    """Logistic regression with a penalty on the variance of its risk over environments.

    Parameters
    ----------
    penalty_weight : float, default=10.0
        lambda; 0 is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    anneal_steps, rescale, steps, lr, random_state, device
        As in `IRMClassifier`.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    IRMClassifier : equal slopes instead.

    Notes
    -----
    ``CE + lambda * var_e CE_e + ||theta||^2 / (2 C n)``: CE is the mean over all rows, CE_e over those of an
    environment, and the variance is that of a population. Looks at labels and environments; without ``env``
    all rows are one environment.

    References
    ----------
    Krueger et al. (2021). Out-of-Distribution Generalization via Risk Extrapolation.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> VREXClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        penalty_weight: float = 10.0,
        C: float = 1.0,
        *,
        anneal_steps: int = 0,
        rescale: bool = True,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.penalty_weight = penalty_weight
        self.anneal_steps = anneal_steps
        self.rescale = rescale
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> VREXClassifier:
        """Fit the probe; see `IRMClassifier.fit`."""
        params: dict[str, Value] = {
            "lambda": check_number(self.penalty_weight, "penalty_weight"),
            "anneal_steps": int(check_number(self.anneal_steps, "anneal_steps")),
            "rescale": bool(self.rescale),
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(VREX(self.device), X, y, sample_weight, env, params)
        return self


class RiskVariance(Penalised):
    """VREx, from the logits."""

    def slope(self, z: Tensor, batch: Batch) -> Tensor:
        """Slope of the objective in the logits."""
        loss, residual = cross_entropy(z, batch.target)
        means = batch.env_means
        risk = means @ loss
        spread = 2.0 / len(risk) * (means.T @ (risk - risk.mean(dim=0)))
        return (self.share * (batch.weight[:, None] + self.strength * spread))[:, :, None] * residual


class VREX(PenalisedMethod):
    """``vrex``: logistic regression with the same risk in every environment; looks at environments."""

    name: ClassVar[str] = "vrex"
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "anneal_steps": (0,),
        "lambda": (0.1, 1.0, 10.0, 100.0, 1e3, 1e4),
        "lr": (0.05,),
        "rescale": (True,),
        "steps": (60,),
    }

    def penalised(
        self, settings: Sequence[Setting], strength: Tensor, rescale: bool, rng: np.random.Generator
    ) -> RiskVariance:
        """VREx."""
        return RiskVariance(strength, rescale)
