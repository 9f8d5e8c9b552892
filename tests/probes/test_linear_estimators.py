"""scikit-learn's own checks on the convex and projecting estimators."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from cfpairs.probes.dfr import DFRClassifier
from cfpairs.probes.leace import LEACEClassifier
from cfpairs.probes.matchdg import MatchDGClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.probes.oracle import OracleClassifier
from cfpairs.probes.pica import PICAClassifier, PICAProjection
from cfpairs.probes.projections import MeanDifferenceClassifier, RandomProjectionClassifier


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        NCMClassifier(penalty="soft", whiten=True),
        MatchDGClassifier(),
        LEACEClassifier(),
        MeanDifferenceClassifier(),
        RandomProjectionClassifier(),
        PICAClassifier(),
        PICAProjection(),
        DFRClassifier(n_subsets=2, tol=1e-4),
        OracleClassifier(folds=2),
    ]
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)
