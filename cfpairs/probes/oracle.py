"""The ceiling: logistic regression that has seen the test environments."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight
from cfpairs.probes.convex import check_number
from cfpairs.probes.erm import ERM, ERMClassifier
from cfpairs.probes.method import Need

__all__ = ["Oracle", "OracleClassifier"]


class OracleClassifier(ERMClassifier):
    """Logistic regression fitted to test rows, measured on those of other subjects.

    Parameters
    ----------
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    folds : int, default=5
        How many parts the rows are held out in.
    random_state : int, default=0
        Seed of the folds.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    tol : float, default=1e-10
        Gradient norm at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    cross_fitted_ : ndarray of shape (n,)
        Label of every row by a fit to the other folds.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`, of the fit to all rows.

    Notes
    -----
    The objective of `ERMClassifier`, on rows of the test environments: the accuracy that linear probes could
    reach there (the ceiling that Bai et al. 2025 quote). Looks at test labels, so it is no candidate.

    Examples
    --------
    >>> X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    >>> OracleClassifier(folds=4).fit(X, y).cross_fitted_.tolist()
    [0, 0, 1, 1]
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        folds: int = 5,
        random_state: int = 0,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        super().__init__(C, class_weight=class_weight, tol=tol, max_iter=max_iter)
        self.folds = folds
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None, subject: Any = None
    ) -> OracleClassifier:
        """Fit the probe to all rows, and to all but each fold.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Test rows.
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        env : array-like of shape (n,), optional
            Environments; used by ``class_weight="group"`` only.
        subject : array-like of shape (n,), optional
            Rows of one subject share a fold; every row is its own by default.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used. Folds whose rest has one class predict it.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        folds = int(check_number(self.folds, "folds", above=2))
        seed = int(check_number(self.random_state, "random_state"))
        of = np.arange(len(rows)) if subject is None else np.asarray(subject)
        if len(of) != len(rows):
            raise DataError("subject has another length than X", got=len(of), expected=len(rows))
        names, code = np.unique(of, return_inverse=True)
        fold = np.random.default_rng([seed, len(names)]).permutation(len(names))[code.reshape(-1)] % folds
        found = np.zeros(len(rows), np.int64)
        for number in range(folds):
            held = fold == number
            if not held.any():
                continue
            rest = np.unique(index[~held])
            if len(rest) < 2:
                found[held] = rest[0] if len(rest) else 0
                continue
            own = None if weight is None else weight[~held]
            inner = ERMClassifier(self.C, tol=self.tol, max_iter=self.max_iter)
            found[held] = inner.fit(rows[~held], index[~held], own).predict(rows[held])
        self.cross_fitted_ = self.classes_[found]
        self._solve(rows, index, weight, None)
        return self


class Oracle(ERM):
    """``oracle``: ``erm`` on test items of other subjects; looks at test labels."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[frozenset[Need]] = frozenset({"test"})
