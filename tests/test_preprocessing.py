import numpy as np
import pytest

from cfpairs.config import PreprocessConfig
from cfpairs.errors import DataError
from cfpairs.preprocessing import Preprocessor
from cfpairs.vectors import Embeddings


def test_default_gives_every_row_the_length_sqrt_d():
    X = np.random.default_rng(0).normal(3, 1, (20, 7)).astype(np.float32)
    out = Preprocessor(PreprocessConfig()).fit_transform(X)
    assert out.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), np.sqrt(7))


def test_standardize_learns_from_the_rows_given_to_fit_only():
    rng = np.random.default_rng(1)
    train, other = rng.normal(2, 3, (50, 4)), rng.normal(-5, 1, (10, 4))
    train[:, 3] = 2.0
    config = PreprocessConfig(normalize="none", scale="none", standardize="train")
    made = Preprocessor(config).fit(train)
    np.testing.assert_allclose(made.transform(train).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(made.transform(train)[:, :3].std(axis=0), 1)
    expected = (other[:, :3] - train[:, :3].mean(axis=0)) / train[:, :3].std(axis=0)
    np.testing.assert_allclose(made.transform(other)[:, :3], expected)


def test_the_input_is_left_alone():
    X = np.ones((2, 2))
    Preprocessor(PreprocessConfig()).fit_transform(X)
    assert (X == 1).all()


def test_bad_rows():
    X = np.ones((3, 2))
    X[1] = np.nan
    with pytest.raises(DataError, match="1 of 3 rows"):
        Preprocessor(PreprocessConfig()).transform(X)
    with pytest.raises(DataError, match="all zero"):
        Preprocessor(PreprocessConfig()).transform(np.zeros((1, 2)))


def test_embeddings_keep_their_keys():
    found = Preprocessor(PreprocessConfig()).transform_embeddings(Embeddings(["b", "a"], np.eye(2)))
    np.testing.assert_allclose(found.rows(["a"]), [[0, np.sqrt(2)]])
