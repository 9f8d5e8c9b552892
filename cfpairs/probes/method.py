"""What a probing method is: hyperparameters to try, and a function that fits all of them at once.

Whatever a method does to find them, what it gives are linear logits ``z = x W + b`` on the embeddings. So
all methods are chosen, measured and stored alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import ConfigError
from cfpairs.probes.fits import LinearFits
from cfpairs.subspace import Directions

__all__ = ["FitData", "Need", "ProbeMethod", "Rows", "Setting", "Value", "spread"]

Array = NDArray[np.floating[Any]]
Need = Literal["pairs", "env", "validation", "test"]
Value = float | int | str | bool


@dataclass(frozen=True, order=True)
class Setting:
    """One fit: the method's name, the rank r (0 where it removes nothing), the inverse ridge C, and the rest.

    Attributes
    ----------
    method : str
    r : int
    C : float
        scikit-learn's convention: the objective has the term ``||W||^2 / (2 C n)``.
    params : tuple of (str, value)
        The method's other hyperparameters, by name.
    """

    method: str
    r: int
    C: float
    params: tuple[tuple[str, Value], ...] = ()

    def get(self, name: str) -> Value:
        """One of the other hyperparameters."""
        return dict(self.params)[name]

    def number(self, name: str) -> float:
        """One of the other hyperparameters, as a number."""
        return float(self.get(name))


@dataclass(frozen=True)
class Rows:
    """Labelled rows.

    Attributes
    ----------
    X : ndarray of shape (n, d)
    y : ndarray of int, shape (n,)
        Class indices 0..n_classes-1.
    env : ndarray of int, shape (n,)
        Environment indices 0..n_env-1.
    """

    X: Array
    y: NDArray[np.int64]
    env: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def groups(self, n_env: int) -> NDArray[np.int64]:
        """Group of every row: ``y * n_env + env``."""
        return self.y * n_env + self.env


@dataclass(frozen=True)
class FitData:
    """What a method may look at; all of it in the same orthonormal axes.

    Attributes
    ----------
    rows : Rows
        Training rows. float32 rows may be worked on in float32, where a rough solution will do.
    n_classes, n_env : int
    directions : Directions or None
        Of the pair differences.
    differences : ndarray of shape (k, d) or None
        D, one row a pair, a minus b.
    validation : Rows or None
        Rows of the val split, with environments; only for methods that say they need it.
    test : Rows or None
        Rows of the test split; only for the oracle.
    weight : ndarray of shape (n,) or None
        Weights of the training rows, which multiply a method's own.
    axes : ndarray of shape (d, d) or None
        Those axes as columns, for methods whose result depends on the embedding's own coordinates:
        ``X @ axes.T`` stands in these. None: X stands in them.
    cache : dict
        For what a method computes from this data once, such as a basis; keys begin with the method's name.
    """

    rows: Rows
    n_classes: int
    n_env: int
    directions: Directions | None = None
    differences: Array | None = None
    validation: Rows | None = None
    test: Rows | None = None
    weight: Array | None = None
    axes: Array | None = None
    cache: dict[str, Any] = field(default_factory=dict, compare=False)


class ProbeMethod(ABC):
    """One name that ``--method`` knows.

    Attributes
    ----------
    name : str
    needs : frozenset of {"pairs", "env", "validation", "test"}
        What beside training labels it looks at. A method whose needs are not met is left out and said so.
    ranks : bool
        Whether it has a rank r: it is then fitted at every rank of the configuration.
    stochastic : bool
        Whether a fit depends on a seed.
    ridge : tuple of float or None
        Inverse ridge strengths that are tried; None: those of the configuration.
    grid : mapping of str to tuple
        Default values of its other hyperparameters: the ranges of its paper.
    final_tol : float
        Gradient norm to which a chosen setting is fitted.
    family : str
        Methods of one family share what they compute from the data (``FitData.cache``) and are fitted in one
        process; empty for a method that shares nothing.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    ranks: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    ridge: ClassVar[tuple[float, ...] | None] = None
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {}
    final_tol: ClassVar[float] = 1e-6
    family: ClassVar[str] = ""

    @abstractmethod
    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every setting, in one batch.

        Parameters
        ----------
        data : FitData
        settings : sequence of Setting, length f
            All of this method. A rank over that of ``data.directions`` stands for all of them.
        seeds : sequence of int, length f
            Seed of every fit; methods that are not stochastic leave it unused.
        start : LinearFits, optional
            Where a convex method may begin.
        tol : float
            Gradient norm at which a convex fit stops.

        Returns
        -------
        LinearFits
            Fit i has ``settings[i]``; what it is does not depend on the other fits beyond 1e-6.
        """
        ...

    def settings(
        self,
        ranks: Sequence[int],
        C: Sequence[float],
        budget: int | None = None,
        grid: Mapping[str, Sequence[Value]] | None = None,
    ) -> tuple[Setting, ...]:
        """The settings that are tried: every combination, or as many of them as the budget allows.

        Parameters
        ----------
        ranks : sequence of int
            Ranks that methods with a rank are fitted at.
        C : sequence of float
            Inverse ridge strengths for methods that have none of their own.
        budget : int, optional
            At most so many settings, spread evenly over the combinations.
        grid : mapping, optional
            Values that replace the method's own; the key ``C`` replaces the ridge.

        Raises
        ------
        ConfigError
            If `grid` has a name that the method does not have.
        """
        given = dict(grid or {})
        unknown = sorted(set(given) - set(self.grid) - {"C"})
        if unknown:
            raise ConfigError(
                f"probe {self.name!r} has no hyperparameter {unknown[0]!r}",
                expected=", ".join(sorted({"C", *self.grid})),
            )
        ridge = given.pop("C", self.ridge if self.ridge is not None else C)
        own_ranks = tuple(ranks) if self.ranks else (0,)
        names = sorted(self.grid)
        values = [tuple(given.get(name, self.grid[name])) for name in names]
        every = [
            Setting(self.name, r, float(c), tuple(zip(names, combination, strict=True)))
            for r in own_ranks
            for c in sorted(float(v) for v in ridge)
            for combination in product(*values)
        ]
        return tuple(every[i] for i in spread(len(every), budget))


def spread(n: int, budget: int | None) -> NDArray[np.int64]:
    """At most `budget` of the numbers 0..n-1, ascending, spread so that every factor of a grid varies.

    Notes
    -----
    Multiples of the golden ratio, modulo 1, fill an interval more evenly than random numbers and share no
    period with the grid's own.

    Examples
    --------
    >>> spread(10, 4).tolist(), spread(3, 4).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    if budget is None or n <= budget:
        return np.arange(n)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    order = np.argsort((np.arange(n) * golden) % 1.0, kind="stable")
    return np.sort(order[:budget])
