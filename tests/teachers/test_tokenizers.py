"""The frozen tokenizers' files: the bundled codebook, and DALL-E's encoder under its published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import teachers
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source
from mae_jax.interop.cae import dalle_rules
from mae_jax.interop.names import export_weights
from mae_jax.methods.base import FrozenSpec
from mae_jax.nets.layers import apply
from mae_jax.nets.tokenizers import DalleEncoder, KMeans

DIGITS = FrozenSpec("kmeans", "bundled/digits_patch2_k16.npz", network=KMeans(16, (2, 2), 1))


def test_bundled_codebook_is_a_k_means_of_the_training_digits():
    """Every centroid is the mean of the patches that are nearest to it."""
    params, sha256 = teachers.load(DIGITS)
    assert len(sha256) == 64 and tree.flatten(params).keys() == tree.flatten(teachers.shapes(DIGITS)).keys()
    source = make_source("digits", "train", {})
    images = jnp.stack([jnp.asarray(source.image(i), jnp.float32) for i in range(len(source))]) / 255
    codes = np.asarray(apply(DIGITS.network, params, images).argmax(axis=2)).ravel()
    patches = np.asarray(images).reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    means = np.stack([patches[codes == k].mean(axis=0) for k in range(16)])
    np.testing.assert_allclose(params["centroids"], means, atol=0.01)


@pytest.mark.parametrize("network", [KMeans(15, (2, 2), 1), KMeans(16, (4, 4), 1), KMeans(16, (2, 2), 3)])
def test_a_codebook_of_another_size_is_refused(network):
    with pytest.raises(UserError, match="centroids .16x4. does not fit"):
        teachers.load(FrozenSpec("kmeans", DIGITS.file, network=network))


def test_dalle_by_its_published_names(tmp_path):
    spec = FrozenSpec("dalle", str(tmp_path / "encoder.npz"), network=DalleEncoder(vocab=6, width=4, depth=2))
    shapes = teachers.shapes(spec)
    params = jax.tree.map(lambda s: np.random.default_rng(0).normal(size=s.shape).astype(np.float32), shapes)
    tensors = export_weights(dalle_rules(), params)
    assert tensors["blocks.group_2.block_1.id_path.w"].shape == (8, 4, 1, 1)
    assert tensors["blocks.group_4.block_2.res_path.conv_4.b"].shape == (32,) and len(tensors) == 2 * (2 + 8 * 4 + 3)
    np.savez(spec.file, **tensors)
    loaded, _ = teachers.load(spec)
    for path, array in tree.flatten(params).items():
        np.testing.assert_array_equal(tree.flatten(loaded)[path], array)
    del tensors["blocks.output.conv.b"]
    np.savez(spec.file, **tensors)
    with pytest.raises(UserError, match="output/bias"):
        teachers.load(spec)
