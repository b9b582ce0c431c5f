"""The head of class prototypes and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.losses.asymmetric import asymmetric
from mae_jax.nets.prototypes import SURE, Last, PrototypeHead, double, orthogonality, similarities

HEAD = PrototypeHead(classes=3, per_class=2)
MAP = jax.random.normal(jax.random.key(1), (4, 3, 5, 6))


@pytest.fixture(scope="module")
def params():
    return jax.jit(HEAD.init)(jax.random.key(0), MAP)["params"]


def test_it_starts_as_published(params):
    assert params["prototypes"].shape == (3, 2, 1, 1, 6)
    assert params["prototypes"].min() >= 0 and params["prototypes"].max() < 1
    assert (params["last"]["kernel"] == 1).all() and (params["last"]["bias"] == -2).all()


def test_similarities_are_bounded_and_blind_to_length(params):
    _, score, near = HEAD.apply({"params": params}, MAP)
    assert near.shape == (4, 6, 10, 6) and near.min() >= 0 and near.max() <= 1 / SURE
    own = params["prototypes"].reshape(6, 1, 1, 6)
    x = 5.0 * jnp.broadcast_to(own[2, 0, 0], (1, 2, 2, 6))
    np.testing.assert_allclose(similarities(x, own)[..., 2], 1 / SURE, rtol=1e-3)
    np.testing.assert_allclose(similarities(3 * MAP, own), similarities(MAP, own), atol=1e-3)
    np.testing.assert_allclose(score.reshape(4, 6), near.max(axis=(1, 2)), rtol=1e-6)


def test_a_prototype_moves_the_logit_of_its_class_alone_and_upwards(params):
    _, score, _ = HEAD.apply({"params": params}, MAP)
    jacobian = jax.jacobian(lambda s: _logits(params, s))(score[0])  # [c, c, j]
    own = np.asarray(jacobian)[np.arange(3), np.arange(3)]
    assert (own >= 0).all() and np.count_nonzero(jacobian) == np.count_nonzero(own) == 6
    negative = {**params, "last": {**params["last"], "kernel": params["last"]["kernel"].at[1, 0].set(-3.0)}}
    assert np.count_nonzero(jax.jacobian(lambda s: _logits(negative, s))(score[0])) == 5  # counts as 0


def _logits(params, score):
    return Last(HEAD).apply({"params": params["last"]}, score[None])[0]


def test_doubling_is_torchs_upsampling():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(np.moveaxis(np.asarray(MAP), -1, 1).copy())
    theirs = torch.nn.Upsample(scale_factor=2, mode="bilinear")(x).numpy()
    np.testing.assert_allclose(np.moveaxis(np.asarray(double(MAP)), -1, 1), theirs, atol=1e-6)


def test_top_k_counts_in_training_alone(params):
    head = PrototypeHead(classes=3, per_class=2, top=4)
    _, one, near = head.apply({"params": params}, MAP)
    _, four, _ = head.apply({"params": params}, MAP, train=True)
    flat = np.sort(np.asarray(near).reshape(4, -1, 3, 2), axis=1)
    np.testing.assert_allclose(one, flat[:, -1])
    np.testing.assert_allclose(four, flat[:, -4:].mean(axis=1), rtol=1e-6)


def test_orthogonality_is_zero_for_orthogonal_prototypes():
    eye = 30 * jnp.eye(4).reshape(2, 2, 1, 1, 4)
    np.testing.assert_allclose(orthogonality(eye), 0.0, atol=1e-4)
    assert np.abs(orthogonality(jnp.ones((1, 2, 1, 1, 4)))[0, 0, 1]) > 0.99


def test_the_asymmetric_loss_without_its_asymmetry_is_the_binary_cross_entropy():
    logits = 3 * jax.random.normal(jax.random.key(0), (5, 4))
    labels = (jax.random.uniform(jax.random.key(1), (5, 4)) < 0.4).astype(jnp.int32)
    plain = jax.jit(lambda x: asymmetric(x, labels, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(plain(logits), optax.sigmoid_binary_cross_entropy(logits, labels), rtol=1e-5, atol=1e-6)
    # By hand: a negative below the clip costs nothing; another one with p = 0.55 weighs 0.5^4; a positive 1 - p.
    logit = lambda p: np.log(p / (1 - p))
    found = jax.jit(asymmetric)(jnp.asarray([[logit(0.04), logit(0.55), logit(0.7)]]), jnp.asarray([[0, 0, 1]]))[0]
    np.testing.assert_allclose(found, [0.0, -np.log(0.5) * 0.5**4, -np.log(0.7) * 0.3], rtol=1e-5, atol=1e-7)
    gradient = jax.jit(jax.grad(lambda x: asymmetric(x, labels[:1]).sum()))(jnp.full((1, 4), -9.0))
    assert np.isfinite(gradient).all()
