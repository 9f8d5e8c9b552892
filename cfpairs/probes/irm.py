"""Invariant risk minimisation: a probe whose logits no environment would rescale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cfpairs.errors import DataError
from cfpairs.probes.adam import Batch, Field, descend, residual, spin
from cfpairs.probes.convex import check_number
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.gradient import GradientMethod, GradientProbe
from cfpairs.probes.method import FitData, Need, Setting, Value

__all__ = ["IRM", "IRMClassifier", "Penalised", "PenalisedMethod"]


class IRMClassifier(GradientProbe):
    """Logistic regression whose logits no environment would rescale.

    Parameters
    ----------
    penalty_weight : float, default=100.0
        lambda; 0 is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    penalty : {"square", "halves"}, default="square"
        The square of every environment's slope, never negative; or the product of the slopes on two random
        halves, which has no bias from the noise of few rows, and can be negative.
    anneal_steps : int, default=0
        Steps with a lambda of at most 1 before the others, which have a fresh optimiser. They start at the
        solution for lambda = 0 either way.
    rescale : bool, default=True
        Divide the objective by lambda where that is over 1.
    steps : int, default=60
    lr : float, default=0.05
        Adam's first step size, in coordinates where every axis has the same curvature; it falls to zero.
    random_state : int, default=0
        Of what is drawn at random: the halves, and the rows of a step where there are over 8,192.
    device : str, default="cpu"
        Where torch works: ``cpu`` or ``cuda``.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    VREXClassifier : equal risks instead.
    ERMClassifier : lambda = 0.

    Notes
    -----
    ``CE + lambda * mean_e g_e^2 + ||theta||^2 / (2 C n)`` with ``g_e = mean_{i in e} sum_c (p_ic - y_ic)
    z_ic``: the slope of the environment's risk in a factor on the logits, at 1 (IRMv1). CE is the mean over
    all rows. Looks at labels and environments; without ``env`` all rows are one environment.

    References
    ----------
    Arjovsky, Bottou, Gulrajani, Lopez-Paz (2019). Invariant Risk Minimization.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> IRMClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        penalty_weight: float = 100.0,
        C: float = 1.0,
        *,
        penalty: str = "square",
        anneal_steps: int = 0,
        rescale: bool = True,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.penalty_weight = penalty_weight
        self.penalty = penalty
        self.anneal_steps = anneal_steps
        self.rescale = rescale
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> IRMClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        env : array-like of shape (n,), optional
            Environment of every row.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        if self.penalty not in ("square", "halves"):
            raise DataError("penalty is unknown", got=repr(self.penalty), expected="'square' or 'halves'")
        params: dict[str, Value] = {
            "lambda": check_number(self.penalty_weight, "penalty_weight"),
            "penalty": self.penalty,
            "anneal_steps": int(check_number(self.anneal_steps, "anneal_steps")),
            "rescale": bool(self.rescale),
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(IRM(self.device), X, y, sample_weight, env, params)
        return self


class Penalised:
    """``CE + lambda * penalty``, divided by lambda where that is over 1 and `rescale` holds.

    Attributes
    ----------
    strength, share : Tensor of shape (f,)
        lambda, and what the objective is multiplied by.
    """

    def __init__(self, strength: Tensor, rescale: bool) -> None:
        self.strength = strength
        self.share = 1.0 / strength.clamp(min=1.0) if rescale else torch.ones_like(strength)


class PenalisedMethod(GradientMethod):
    """A method with a penalty on every environment's risk; its annealing is the paper's."""

    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    schedule: ClassVar[tuple[str, ...]] = ("anneal_steps", "lr", "rescale", "steps")

    def fit_batch(
        self, data: FitData, settings: Sequence[Setting], rngs: Sequence[np.random.Generator]
    ) -> LinearFits:
        """Steps with lambda of at most 1, where asked for; then with lambda."""
        rng = rngs[0]
        field = Field(data, settings, self.device)
        strength = field.per_fit([s.number("lambda") for s in settings])
        lr, rescale = settings[0].number("lr"), bool(settings[0].get("rescale"))
        anneal, steps = int(settings[0].number("anneal_steps")), int(settings[0].number("steps"))
        if anneal:
            mild = self.penalised(settings, strength.clamp(max=1.0), rescale, rng)
            W, b, _ = descend(field, mild, anneal, lr, rng)
            field.restart(W, b)
        W, b, norm = descend(field, self.penalised(settings, strength, rescale, rng), steps, lr, rng)
        return field.finish(W, b, norm, anneal + steps)

    @abstractmethod
    def penalised(
        self, settings: Sequence[Setting], strength: Tensor, rescale: bool, rng: np.random.Generator
    ) -> Any:
        """The objective at the given lambda."""
        ...


class Invariance(Penalised):
    """IRMv1, from the logits."""

    def __init__(self, strength: Tensor, rescale: bool, halves: bool, rng: np.random.Generator) -> None:
        super().__init__(strength, rescale)
        self.halves, self.rng = halves, rng

    def slope(self, z: Tensor, batch: Batch) -> Tensor:
        """Slope of the objective in the logits."""
        off = residual(z, batch.target)
        along = (off * z).sum(dim=2)
        if self.halves:
            one, other = self._split(batch)
            pull = (one.T @ (other @ along) + other.T @ (one @ along)) / len(one)
        else:
            means = batch.env_means
            pull = 2.0 / len(means) * (means.T @ (means @ along))
        loss = (batch.weight[:, None] * self.share)[:, :, None] * off
        return loss + (self.share * self.strength * pull)[:, :, None] * spin(z, off)

    def _split(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Means over two random halves of every environment; of nothing, 0, where it has one row."""
        device = batch.env.device
        order = torch.as_tensor(self.rng.permutation(len(batch)), device=device)
        ranked = order[torch.argsort(batch.env[order], stable=True)]
        turn = torch.empty_like(order)
        turn[ranked] = torch.arange(len(batch), device=device)
        means = batch.env_means
        parts = [means * (turn % 2 == half) for half in (0, 1)]
        one, other = (part / part.sum(dim=1, keepdim=True).clamp(min=1e-30) for part in parts)
        return one, other


class IRM(PenalisedMethod):
    """``irm``: logistic regression whose logits no environment would rescale; looks at environments."""

    name: ClassVar[str] = "irm"
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "anneal_steps": (0,),
        "lambda": (0.1, 1.0, 10.0, 100.0, 1e3, 1e4),
        "lr": (0.05,),
        "penalty": ("square",),
        "rescale": (True,),
        "steps": (60,),
    }
    schedule: ClassVar[tuple[str, ...]] = (*PenalisedMethod.schedule, "penalty")

    def draws(self, settings: Sequence[Setting]) -> bool:
        """Only the halves are drawn."""
        return any(s.get("penalty") == "halves" for s in settings)

    def penalised(
        self, settings: Sequence[Setting], strength: Tensor, rescale: bool, rng: np.random.Generator
    ) -> Invariance:
        """IRMv1."""
        return Invariance(strength, rescale, settings[0].get("penalty") == "halves", rng)
