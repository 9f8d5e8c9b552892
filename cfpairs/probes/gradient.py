"""What the methods that take gradient steps share, as names for a sweep and as estimators."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.adam import FULL_ROWS, Field, Objective, descend
from cfpairs.probes.base import LinearProbe
from cfpairs.probes.convex import check_number
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, ProbeMethod, Rows, Setting, Value
from cfpairs.probes.solver import principal_axes
from cfpairs.threads import one_blas_thread

__all__ = ["DescendingMethod", "GradientMethod", "GradientProbe"]

Array = NDArray[np.floating[Any]]


class GradientMethod(ProbeMethod):
    """A method that is fitted by gradient steps; settings that share a schedule go together.

    Attributes
    ----------
    schedule : tuple of str
        Hyperparameters that all fits of a batch have in common.
    pools_seeds : bool
        Whether fits of several seeds go into one batch, which they do while a step sees all rows.
    """

    family: ClassVar[str] = "descent"
    schedule: ClassVar[tuple[str, ...]] = ("lr", "steps")
    pools_seeds: ClassVar[bool] = False

    def __init__(self, device: str = "cpu") -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise DataError("there is no GPU that torch can use", got=repr(device), remedy="use device='cpu'")
        self.device = device

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every setting, one batch a schedule and, where seeds see other rows, a seed.

        `start` and `tol` are left unused: a fit takes the steps that its setting says.
        """
        many = len(data.rows) > FULL_ROWS
        # Where nothing is drawn seeds do not matter: a setting is fitted once for all of them.
        each = list(seeds) if many or self.draws(settings) else [0] * len(settings)
        apart = many or not self.pools_seeds
        key = [
            (seed if apart else None, *(s.get(name) for name in self.schedule))
            for s, seed in zip(settings, each, strict=True)
        ]
        parts: list[LinearFits] = []
        place = np.zeros(len(settings), np.int64)
        done = 0
        for one in dict.fromkeys(key):
            of = [i for i, k in enumerate(key) if k == one]
            distinct = list(dict.fromkeys((settings[i], int(each[i])) for i in of))
            streams = {
                seed: np.random.default_rng([seed, zlib.crc32(self.name.encode())]) for _, seed in distinct
            }
            # NumPy's threads go on spinning for some hundredths of a second after a product, in torch's way.
            with torch.no_grad(), one_blas_thread():
                parts.append(
                    self.fit_batch(data, [s for s, _ in distinct], [streams[seed] for _, seed in distinct])
                )
            place[of] = [done + distinct.index((settings[i], int(each[i]))) for i in of]
            done += len(distinct)
        return LinearFits.join(parts).take(place.tolist())

    def draws(self, settings: Sequence[Setting]) -> bool:
        """Whether a fit to all rows draws random numbers."""
        return self.stochastic

    @abstractmethod
    def fit_batch(
        self, data: FitData, settings: Sequence[Setting], rngs: Sequence[np.random.Generator]
    ) -> LinearFits:
        """Fit settings that share a schedule; fits of one seed have the same generator in `rngs`."""
        ...


class DescendingMethod(GradientMethod):
    """A method that goes down one objective from beginning to end."""

    def fit_batch(
        self, data: FitData, settings: Sequence[Setting], rngs: Sequence[np.random.Generator]
    ) -> LinearFits:
        """Take the steps of the schedule down the objective."""
        field = Field(data, settings, self.device)
        steps = int(settings[0].number("steps"))
        objective = self.objective(data, settings, field, rngs)
        W, b, norm = descend(field, objective, steps, settings[0].number("lr"), rngs[0])
        return field.finish(W, b, norm, steps)

    @abstractmethod
    def objective(
        self,
        data: FitData,
        settings: Sequence[Setting],
        field: Field,
        rngs: Sequence[np.random.Generator],
    ) -> Objective:
        """What the settings minimise."""
        ...


def _repeated(rows: Array, weight: Array | None) -> Array:
    """Rows with the principal axes of rows that are repeated as often as their weights say."""
    if weight is None:
        return rows
    mean = weight @ rows / weight.sum()
    part = np.sqrt(weight)[:, None] * (rows - mean)
    return np.concatenate([part, -part])


class GradientProbe(LinearProbe):
    """Base of the estimators whose method takes gradient steps; `fit` is the method's own, with one fit."""

    class_weight = None

    def __init__(
        self,
        C: float = 1.0,
        *,
        steps: int = 60,
        lr: float = 0.05,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.steps = steps
        self.lr = lr
        self.random_state = random_state
        self.device = device

    def _fit_by(
        self, method: GradientMethod, X: Any, y: Any, sample_weight: Any, env: Any, params: dict[str, Value]
    ) -> None:
        rows, index, weight = self._start(X, y, sample_weight, env)
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise DataError("random_state cannot be used", got=repr(seed), expected="an integer, 0 or more")
        for name in ("steps", "lr"):
            check_number(params[name], name, strictly=True)
        codes = np.zeros(len(rows), np.int64)
        if env is not None:
            codes = np.unique(np.asarray(env), return_inverse=True)[1].reshape(-1).astype(np.int64)
        axes = principal_axes(_repeated(rows, weight))
        data = FitData(
            Rows(rows @ axes, index, codes), len(self.classes_), int(codes.max()) + 1, weight=weight
        )
        setting = Setting(method.name, 0, float(self.C), tuple(sorted(params.items())))
        fits = method.fit(data, [setting], [int(seed)])
        self._take(fits, axes, None)
