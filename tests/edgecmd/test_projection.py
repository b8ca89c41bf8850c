"""Principal components beside scikit-learn's, and the projector that they make of public pictures."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import source_input
from edgecmd.data.pairs import PublicSource
from edgecmd.datasets.build.imagenet import read_weights
from edgecmd.models.projection import fit_projector, principal_components
from edgecmd.models.trunks.efficientnet import EfficientNetLite0
from tests.made_up_weights import made_up_state, weight_file


def images(num: int) -> np.ndarray:
    """Noise of a brightness and contrast of its own."""
    generator = np.random.default_rng(0)
    level = generator.uniform(40, 200, (num, 1, 1, 3))
    return np.clip(level + generator.normal(0, 40, (num, 16, 16, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    """Made-up weights; it sees 32 pixels, so that it is quick."""
    made = EfficientNetLite0(embedding_dim=3, input_side=32).eval()
    made.load_state_dict(read_weights(weight_file(made_up_state())), strict=False)
    return made


def test_components_are_those_of_scikit_learn_up_to_their_sign() -> None:
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(50, 7)) * np.arange(7, 0, -1) @ generator.normal(size=(7, 7)) + 3.0
    mean, weight, deviation = principal_components(rows, 4)
    theirs = PCA(n_components=4, svd_solver="full").fit(rows)
    np.testing.assert_allclose(mean, theirs.mean_)
    np.testing.assert_allclose(deviation, np.sqrt(theirs.explained_variance_))
    np.testing.assert_allclose(np.abs(weight.T @ theirs.components_.T), np.eye(4), atol=1e-9)
    assert all(column[np.abs(column).argmax()] > 0 for column in weight.T)


def test_rows_the_other_way_round_give_the_same_signs() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 5)) * np.arange(1, 6)
    _, weight, _ = principal_components(rows, 5)
    for others in (rows[::-1], -rows):
        np.testing.assert_allclose(principal_components(others, 5)[1], weight, atol=1e-9)


@torch.no_grad()
def test_the_projector_is_scikit_learn_s_analysis_of_pooled_features(network: EfficientNetLite0) -> None:
    public = images(20)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    fit_projector(network, public)
    pooled = network.pooled(source_input(public)).double().numpy()
    theirs = PCA(n_components=3, svd_solver="full").fit(pooled)
    expected = theirs.transform(pooled)
    found = network(source_input(public)).numpy()
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3 * np.abs(expected).max())
    weight = network.projector.weight.numpy()
    assert all(row[np.abs(row).argmax()] > 0 for row in weight)
    changed = {name for name, one in network.state_dict().items() if not torch.equal(one, before[name])}
    assert changed == {"projector.weight", "projector.bias"}


def test_there_must_be_more_pictures_than_dimensions(network: EfficientNetLite0) -> None:
    fit_projector(network, images(4))
    with pytest.raises(
        ConfigError, match=r"pretrain.embedding_dim=3 needs more than 3 .* there are 3 images. Lower it"
    ):
        fit_projector(network, images(3))


def test_more_dimensions_than_the_pooled_map_has_are_refused() -> None:
    wide = EfficientNetLite0(embedding_dim=1281, input_side=32)
    with pytest.raises(ConfigError, match=r"pretrain.embedding_dim=1281 .* at most 1280 dimensions"):
        fit_projector(wide, np.zeros((1300, 1, 1, 3), dtype=np.uint8))


def test_public_pictures_have_no_field_for_a_label() -> None:
    assert {field.name for field in fields(PublicSource)} == {"images", "keys", "name"}
