"""Group distributionally robust optimisation: a probe for the group that fares worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cfpairs.errors import DataError
from cfpairs.probes.adam import Batch, Field, cross_entropy, group_means
from cfpairs.probes.convex import check_number
from cfpairs.probes.gradient import DescendingMethod, GradientProbe
from cfpairs.probes.method import FitData, Need, Setting, Value

__all__ = ["GroupDRO", "GroupDROClassifier"]


class GroupDROClassifier(GradientProbe):
    """Logistic regression whose rows weigh more the worse their group fares.

    Parameters
    ----------
    eta : float, default=0.1
        How fast the weights of groups follow their losses; 0 leaves every group the same say.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    adjustment : float, default=0.0
        Added to a group's loss, over the root of its size: small groups generalise worse.
    groups : {"label-env", "env"}, default="label-env"
        What a group is: a label in an environment, or an environment.
    steps, lr, random_state, device
        As in `IRMClassifier`.

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    ERMClassifier : with ``class_weight="group"`` it is eta = 0.

    Notes
    -----
    Every step ``q_g <- q_g exp(eta * (CE_g + adjustment / sqrt(n_g)))``, normalised to a sum of 1, then one
    step on ``sum_g q_g CE_g + ||theta||^2 / (2 C n)``. Looks at labels and environments; without ``env``
    all rows are one environment.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang (2019). Distributionally Robust Neural Networks for Group Shifts.

    Examples
    --------
    >>> X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    >>> GroupDROClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1]).predict([[0.3]])
    array([1])
    """

    def __init__(
        self,
        eta: float = 0.1,
        C: float = 1.0,
        *,
        adjustment: float = 0.0,
        groups: str = "label-env",
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.eta = eta
        self.adjustment = adjustment
        self.groups = groups
        super().__init__(C, steps=steps, lr=lr, random_state=random_state, device=device)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> GroupDROClassifier:
        """Fit the probe; see `IRMClassifier.fit`."""
        if self.groups not in ("label-env", "env"):
            raise DataError("groups is unknown", got=repr(self.groups), expected="'label-env' or 'env'")
        params: dict[str, Value] = {
            "eta": check_number(self.eta, "eta"),
            "adjustment": check_number(self.adjustment, "adjustment"),
            "groups": self.groups,
            "steps": self.steps,
            "lr": self.lr,
        }
        self._fit_by(GroupDRO(self.device), X, y, sample_weight, env, params)
        return self


class WorstGroup:
    """The groups' weights, which follow their losses, and the loss that they weigh.

    Parameters
    ----------
    eta, adjustment : Tensor of shape (f,)
    sizes : Tensor of shape (groups,)
        Rows of every group.
    n_env : int or None
        Groups are ``y * n_env + env``; None: groups are environments.
    """

    def __init__(self, eta: Tensor, adjustment: Tensor, sizes: Tensor, n_env: int | None) -> None:
        self.eta, self.n_env = eta, n_env
        self.handicap = adjustment / sizes.clamp(min=1.0).sqrt()[:, None]
        self.log_q = torch.where(sizes > 0, 0.0, -torch.inf).to(eta.dtype)[:, None].expand_as(self.handicap)
        self.share = torch.ones_like(eta)

    def slope(self, z: Tensor, batch: Batch) -> Tensor:
        """Slope of the objective in the logits, after the groups' weights have moved."""
        loss, residual = cross_entropy(z, batch.target)
        code = batch.env if self.n_env is None else batch.y * self.n_env + batch.env
        means = group_means(code, batch.weight, len(self.handicap))
        seen = means.sum(dim=1, keepdim=True) > 0
        grown = self.log_q + self.eta * torch.where(seen, means @ loss + self.handicap, 0.0)
        self.log_q = grown - grown.logsumexp(dim=0)
        return (means.T @ self.log_q.exp())[:, :, None] * residual


class GroupDRO(DescendingMethod):
    """``groupdro``: logistic regression for the worst group; looks at environments, or at groups."""

    name: ClassVar[str] = "groupdro"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    ridge: ClassVar[tuple[float, ...] | None] = (1e-3, 1e-2, 1e-1)
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "adjustment": (0.0, 2.0),
        "eta": (0.01, 0.1, 1.0),
        "groups": ("label-env",),
        "lr": (0.05,),
        "steps": (60,),
    }
    schedule: ClassVar[tuple[str, ...]] = ("groups", "lr", "steps")

    def objective(
        self,
        data: FitData,
        settings: Sequence[Setting],
        field: Field,
        rngs: Sequence[np.random.Generator],
    ) -> WorstGroup:
        """The eta and adjustment of every setting."""
        by_env = settings[0].get("groups") == "env"
        codes = data.rows.env if by_env else data.rows.groups(data.n_env)
        sizes = np.bincount(codes, minlength=data.n_env * (1 if by_env else data.n_classes))
        return WorstGroup(
            field.per_fit([s.number("eta") for s in settings]),
            field.per_fit([s.number("adjustment") for s in settings]),
            field.tensor(sizes),
            None if by_env else data.n_env,
        )
