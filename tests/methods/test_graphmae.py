"""GraphMAE's own invariants (papers/graphmae), of its masking, its graph layers and its loss."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import batch_sharding, make_mesh, replicated, use_mesh
from mae_jax.losses.cosine import scaled_cosine_error
from mae_jax.masking.nodes import corrupt_nodes, counts
from mae_jax.methods.graphmae import GraphMAE, corrupt_features
from mae_jax.nets import graph
from mae_jax.nets.graph import Graph, dropout, edge_softmax, propagate

N, E, F = 14, 60, 5
GAT = GraphMAE(nodes=N, edges=E, features=F, dim=8, depth=2, heads=2, task="graph", replace_ratio=0.0, alpha=2.0)


def graph_batch(sizes, seed=0, nodes=N, edges=E, features=F):
    """Rows of random graphs of `sizes` nodes, self-loops included, then padding whose ends lie anywhere."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        pairs = np.argwhere(np.triu(rng.random((n, n)) < 0.25, 1))[: (edges - n) // 2]
        ends = np.concatenate([pairs, pairs[:, ::-1], np.repeat(np.arange(n)[:, None], 2, 1)])
        senders, receivers = rng.integers(0, nodes, (2, edges))
        senders[: len(ends)], receivers[: len(ends)] = ends.T
        x = rng.random((nodes, features)).astype(np.float32)
        rows.append({
            "nodes": x, "senders": senders.astype(np.int32), "receivers": receivers.astype(np.int32),
            "edge_valid": np.arange(edges) < len(ends), "node_valid": np.arange(nodes) < n,
        })  # fmt: skip
    return {k: jnp.asarray(np.stack([row[k] for row in rows])) for k in rows[0]}


BATCH = graph_batch([14, 9, 11, 6])


@functools.cache
def start(method):
    """(params, stats) moved off their zeros."""

    @jax.jit
    def make():
        params, stats = method.init(jax.random.key(0), BATCH)
        return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params), stats

    return make()


@functools.cache
def jitted(method, train):
    return jax.jit(
        lambda params, stats, batch, given: method.loss(
            params, {"stats": stats}, batch, Context(jax.random.key(0), train=train, given=given)
        )
    )


def loss(method, params, stats, batch=BATCH, train=False, **given):
    return jitted(method, train)(params, stats, batch, given)


@pytest.fixture(scope="module")
def gat():
    return start(GAT)


# Masking ----------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_authors_integers():
    for ratio, replace in ((0.5, 0.05), (0.75, 0.15), (0.6, 0.1), (0.25, 0.0)):
        m, t, k = counts(3000, ratio, replace)
        for n in (0, 1, 7, 40, 400, 1000, 2708, 3000):
            masked = int(ratio * n)
            assert (m[n], t[n], k[n]) == (masked, int((1 - replace) * masked), int(replace * masked))


@pytest.mark.parametrize("bucket", [1, 2, 4])
def test_every_pool_hides_its_share_of_real_nodes(bucket):
    ratio, replace = 0.6, 0.3
    found = corrupt_nodes(Context(jax.random.key(1)), BATCH["node_valid"], ratio, replace, bucket)
    real = np.asarray(BATCH["node_valid"]).reshape(4 // bucket, -1)
    hidden, token, noise, donor = map(np.asarray, (found.hidden, found.token, found.noise, found.donor))
    assert not (hidden & ~real).any() and not (token & noise).any() and not ((token | noise) & ~hidden).any()
    for row in range(len(real)):
        m = int(ratio * real[row].sum())
        assert (hidden[row].sum(), token[row].sum(), noise[row].sum()) == (m, int(0.7 * m), int(0.3 * m))
        given = donor[row][noise[row]]
        assert len(set(given)) == len(given) and real[row][given].all()
    x = np.asarray(corrupt_features(BATCH["nodes"], jnp.full((1, F), 9.0), found)).reshape(len(real), -1, F)
    old = np.asarray(BATCH["nodes"]).reshape(x.shape)
    assert (x[token] == 9).all() and (x[~token & ~noise] == old[~token & ~noise]).all()
    for row in range(len(real)):
        np.testing.assert_array_equal(x[row][noise[row]], old[row][donor[row][noise[row]]])


def test_masks_differ_by_step_and_are_uniform():
    """400 steps: each of 14 real nodes is hidden about half of the time, none of the padded ones ever."""
    draw = jax.jit(lambda s: corrupt_nodes(Context(jax.random.key(2), s), BATCH["node_valid"], 0.5).hidden)
    often = sum(np.asarray(draw(s)).astype(float) for s in range(400)) / 400
    real = np.asarray(BATCH["node_valid"])
    share = np.array([int(0.5 * n) / n for n in real.sum(1)])[:, None]
    assert (often[~real] == 0).all() and np.abs(often - share)[real].max() < 5 * 0.5 / 20


def test_without_replacing_nothing_of_a_hidden_node_is_read(gat):
    """The network may look at anything but the features of hidden nodes, which are not in its input."""
    params, stats = gat
    _, aux = loss(GAT, params, stats)
    hidden = aux.seen["hidden"][:, :, None]
    assert (np.asarray(aux.seen["corrupted"])[np.asarray(hidden[..., 0])] == np.asarray(params["mask_token"])).all()
    _, other = loss(GAT, params, stats, BATCH | {"nodes": jnp.where(hidden, 7.0, BATCH["nodes"])})
    np.testing.assert_array_equal(other.seen["latent"], aux.seen["latent"])
    _, other = loss(GAT, params, stats, BATCH | {"nodes": jnp.where(hidden, BATCH["nodes"], 7.0)})
    assert not np.allclose(other.seen["latent"], aux.seen["latent"])


# Graph layers -----------------------------------------------------------------------------------------------------


def graph_of(batch):
    return Graph(batch["senders"], batch["receivers"], batch["edge_valid"], batch["node_valid"])


def test_attention_over_incoming_edges_sums_to_one():
    g = graph_of(BATCH)
    alpha = np.asarray(edge_softmax(100 * jax.random.normal(jax.random.key(3), (4, E, 2)), g))
    total = np.zeros((4, N, 2))
    for b in range(4):
        np.add.at(total[b], np.asarray(g.receivers[b]), alpha[b])
    real = np.asarray(g.node_valid)
    np.testing.assert_allclose(total[real], 1, rtol=1e-5)
    assert (total[~real] == 0).all() and (alpha[~np.asarray(g.edge_valid)] == 0).all()


def test_softmax_at_a_node_with_one_edge_has_no_gradient():
    lone = Graph(*jnp.zeros((2, 1, 1), jnp.int32), jnp.ones((1, 1), bool), jnp.ones((1, 1), bool))
    gradient = jax.grad(lambda e: edge_softmax(e, lone).sum())(jnp.full((1, 1, 1), 3.0))
    assert gradient.item() == 0


@pytest.mark.parametrize("block", [E, 25])
def test_propagate_is_a_dense_product_and_so_is_its_gradient(block, monkeypatch):
    monkeypatch.setattr(graph, "EDGE_BLOCK", block)
    g = graph_of(BATCH)
    x, w = jax.random.normal(jax.random.key(4), (4, N, 2, 3)), jax.random.normal(jax.random.key(5), (4, E, 2))

    def dense(x, w):
        rows = jnp.arange(4)[:, None]
        matrix = jnp.zeros((4, N, N, 2)).at[rows, g.receivers, g.senders].add(w)
        return jnp.einsum("bijh,bjhf->bihf", matrix, x)

    ours = lambda x, w: propagate(x, w, g.senders, g.receivers)
    np.testing.assert_allclose(ours(x, w), dense(x, w), atol=1e-5)
    weight = jax.random.normal(jax.random.key(6), x.shape)
    gradient = lambda f: jax.grad(lambda x, w: (f(x, w) * weight).sum(), (0, 1))(x, w)
    for found, wanted in zip(gradient(ours), gradient(dense)):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["gat", "dotgat", "gin", "gcn"])
def test_relabelling_nodes_permutes_outputs_and_padding_changes_nothing(kind):
    method = dataclasses.replace(GAT, encoder=kind, decoder="gin", norm="batch", residual=True, concat_hidden=True)
    params, stats = start(method)
    names = jax.random.permutation(jax.random.key(7), N)  # node i becomes names[i]
    back = jnp.argsort(names)
    order = jax.random.permutation(jax.random.key(8), E)
    renamed = {
        "nodes": BATCH["nodes"][:, back], "node_valid": BATCH["node_valid"][:, back],
        "senders": names[BATCH["senders"]][:, order], "receivers": names[BATCH["receivers"]][:, order],
        "edge_valid": BATCH["edge_valid"][:, order],
    }  # fmt: skip
    run = jax.jit(lambda batch: method.encode(params, {"stats": stats}, batch, train=True))
    features = run(BATCH)
    real = np.asarray(BATCH["node_valid"])
    np.testing.assert_allclose(np.asarray(run(renamed).normed[:, names])[real], features.normed[real], atol=2e-5)
    wide = graph_batch([14, 9, 11, 6])  # the same graphs; other padding
    wide = wide | {"nodes": jnp.where(wide["node_valid"][:, :, None], wide["nodes"], 50.0)}
    wide |= {k: jnp.where(wide["edge_valid"], wide[k], 0) for k in ("senders", "receivers")}
    other = run(wide)
    np.testing.assert_allclose(other.normed[real], features.normed[real], atol=2e-5)
    for path, leaf in tree.flatten(features.stats).items():  # nor does padding count in batch statistics
        np.testing.assert_allclose(tree.flatten(other.stats)[path], leaf, atol=1e-5, err_msg=path)


def test_dropped_edges_leave_self_loops_and_go_the_decoder_nothing():
    """With every edge dropped the encoder sees nodes alone; dropping goes by the draw, the decoder keeps all edges."""
    method = dataclasses.replace(GAT, drop_edge=0.5)
    params, stats = start(method)
    _, aux = loss(method, params, stats, drop_edge=jnp.zeros((4, E)))
    alone = graph_of(BATCH).thinned(jnp.zeros((4, E)), 0.5)
    np.testing.assert_array_equal(alone.edge_valid.sum(1), BATCH["node_valid"].sum(1))
    moved = BATCH | {"nodes": BATCH["nodes"].at[:, 0].add(5.0)}
    _, other = loss(method, params, stats, moved, drop_edge=jnp.zeros((4, E)))
    np.testing.assert_array_equal(other.seen["latent"][:, 1:], aux.seen["latent"][:, 1:])
    kept = graph_of(BATCH).thinned(jnp.full((4, E), 0.5), 0.5)  # U[0, 1) >= rate keeps
    np.testing.assert_array_equal(kept.edge_valid.sum(1), BATCH["edge_valid"].sum(1) + BATCH["node_valid"].sum(1))


def test_a_hidden_node_is_predicted_from_its_visible_neighbours_alone(gat):
    """Its prediction is a function of their codes; where all neighbours are hidden it is the bias."""
    params, stats = gat
    decoder, g = GAT.networks[1], graph_of(BATCH)
    hidden = jnp.asarray(np.random.default_rng(3).random((4, N)) < 0.7)
    codes = jax.random.normal(jax.random.key(9), (4, N, 8))
    run = jax.jit(lambda codes: decoder.apply({"params": params["decoder"]}, codes, hidden, g)[0])
    adjacent = np.zeros((4, N, N), bool)
    for b in range(4):
        real = np.asarray(g.edge_valid[b])
        adjacent[b, np.asarray(g.receivers[b])[real], np.asarray(g.senders[b])[real]] = True
    pred = np.asarray(run(codes))
    bare = np.asarray(hidden & g.node_valid) & ~(adjacent & ~np.asarray(hidden)[:, None, :]).any(2)
    assert bare.sum() >= 2
    np.testing.assert_array_equal(pred[bare], np.broadcast_to(params["decoder"]["pred"]["bias"], pred[bare].shape))
    np.testing.assert_array_equal(run(jnp.where(hidden[:, :, None], 99.0, codes)), pred)
    far = run(codes.at[:, 0].add(1.0))  # node 0 moves those that have it for a neighbour, if it is visible
    reached = np.asarray(adjacent[:, :, 0] & ~np.asarray(hidden)[:, :1])
    assert (np.abs(far - pred).max(-1) > 0).tolist() == reached.tolist()


def test_the_target_vector_of_a_gat_decoder_gets_exactly_no_gradient(gat):
    params, stats = gat
    gradient = tree.flatten(jax.jit(jax.grad(lambda p: loss(GAT, p, stats, train=True)[0]))(params))
    assert (gradient["decoder/pred/target/kernel"] == 0).all()
    assert jnp.abs(gradient["decoder/pred/source/kernel"]).max() > 0


def test_a_decoder_without_edges_is_not_re_masked():
    method = dataclasses.replace(GAT, decoder="mlp")
    params, stats = start(method)
    _, aux = loss(method, params, stats)
    assert np.abs(np.asarray(aux.seen["read"])[np.asarray(aux.seen["hidden"])]).min() > 0
    moved = BATCH | {"senders": BATCH["senders"][:, ::-1]}  # other edges, but the encoder's codes as they are
    codes, hidden = jax.random.normal(jax.random.key(9), (4, N, 8)), aux.seen["hidden"]
    run = jax.jit(lambda batch: method.networks[1].apply({"params": params["decoder"]}, codes, hidden, graph_of(batch)))
    np.testing.assert_array_equal(run(moved)[0], run(BATCH)[0])


def test_dropout_is_of_training_alone_and_keeps_the_mean(gat):
    params, stats = gat
    x, noise = jnp.arange(1.0, 5.0), jnp.array([0.1, 0.25, 0.3, 0.2])
    np.testing.assert_allclose(dropout(x, 0.25, lambda name, shape: noise, "x"), [0, 2 / 0.75, 3 / 0.75, 0], rtol=1e-6)
    assert dropout(x, 0.25, None, "x") is x and loss(GAT, params, stats)[0] != loss(GAT, params, stats, train=True)[0]
    _, none = loss(GAT, params, stats, train=True, **{"encoder/0/features": jnp.zeros((4, N, F))})  # drops all
    bias = params["encoder"]["0"]["bias"]
    first = jnp.where(bias >= 0, bias, params["encoder"]["0"]["act"]["slope"] * bias)
    np.testing.assert_allclose(none.seen["layer0"], jnp.broadcast_to(first, (4, N, 8)), rtol=1e-6)


# The loss ---------------------------------------------------------------------------------------------------------


def test_scaled_cosine_error_sees_directions_only():
    x, y = jax.random.normal(jax.random.key(10), (2, 6, 5))
    error = scaled_cosine_error(x, y, 3.0)
    cosine = (x * y).sum(-1) / jnp.linalg.norm(x, axis=-1) / jnp.linalg.norm(y, axis=-1)
    np.testing.assert_allclose(error, (1 - cosine) ** 3, rtol=1e-4)
    scale = jnp.arange(1.0, 7.0)[:, None]
    np.testing.assert_allclose(scaled_cosine_error(x * scale, y, 3.0), error, rtol=1e-4)
    np.testing.assert_allclose(scaled_cosine_error(x, y * scale, 3.0), error, rtol=1e-4)
    assert scaled_cosine_error(y * scale, y, 2.0).max() < 1e-12 and scaled_cosine_error(-y, y, 2.0).min() > 3.99
    zero = jax.grad(lambda p: scaled_cosine_error(p, y, 1.0).sum())(jnp.zeros_like(y))  # torch's normalize, likewise
    np.testing.assert_allclose(zero, -1e12 * y / jnp.linalg.norm(y, axis=-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("error", ["sce", "mse"])
def test_the_loss_is_the_mean_over_hidden_nodes(gat, error):
    params, stats = gat
    value, aux = loss(dataclasses.replace(GAT, error=error), params, stats)
    pred, x = (np.asarray(a, np.float64)[np.asarray(aux.seen["hidden"])] for a in (aux.seen["pred"], BATCH["nodes"]))
    cosine = (pred * x).sum(-1) / np.linalg.norm(pred, axis=-1) / np.linalg.norm(x, axis=-1)
    wanted = (1 - cosine) ** 2 if error == "sce" else ((pred - x) ** 2).mean(-1)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    assert aux.weight == len(pred) == 7 + 4 + 5 + 3


# The method -------------------------------------------------------------------------------------------------------


def test_masking_in_pools_of_a_device_costs_no_collective():
    method = dataclasses.replace(GAT, bucket=2, replace_ratio=0.3, drop_edge=0.2, norm="layer")
    batch, mesh = graph_batch([14, 9, 11, 6] * 4), make_mesh()
    params, stats = start(method)

    def step(params, batch):
        return method.loss(params, {"stats": stats}, batch, Context(jax.random.key(0)))[0]

    with use_mesh(mesh):
        jitted = jax.jit(jax.value_and_grad(step), in_shardings=(replicated(mesh), batch_sharding(mesh)))
        compiled = jitted.lower(params, batch).compile()
    assert not re.search(r" (all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(", compiled.as_text())
    value, gradient = compiled(params, jax.device_put(batch, batch_sharding(mesh)))
    one, alone = jax.jit(jax.value_and_grad(step))(params, batch)
    np.testing.assert_allclose(value, one, rtol=1e-5)
    for path, g in tree.flatten(gradient).items():
        np.testing.assert_allclose(g, tree.flatten(alone)[path], atol=1e-5, err_msg=path)


def test_init_laws():
    """Sheet: GAT's weights and vectors Xavier normal with ReLU's gain, biases 0, token 0; PReLU's slope 0.25."""
    big = GraphMAE(nodes=4, edges=8, features=300, dim=256, heads=4, depth=2, residual=True)
    batch = {k: jnp.zeros((1, *leaf.shape), leaf.dtype) for k, leaf in big.batch_spec.items()}
    params = tree.flatten(jax.jit(big.init)(jax.random.key(0), batch)[0])
    for path, p in params.items():
        p = np.asarray(p)
        if path == "mask_token" or path.endswith("bias"):
            assert (p == 0).all(), path
        elif path.endswith("slope"):
            assert (p == 0.25).all(), path
        elif path.endswith(("source/kernel", "target/kernel")):
            np.testing.assert_allclose(p.std(), (4 / (p.size + p.shape[1])) ** 0.5, rtol=0.15, err_msg=path)
        elif path == "decoder/embed/kernel":  # torch's own
            np.testing.assert_allclose(np.abs(p).max(), p.shape[0] ** -0.5, rtol=0.01)
        else:
            np.testing.assert_allclose(p.std(), (4 / sum(p.shape)) ** 0.5, rtol=0.02, err_msg=path)
    assert params["encoder/0/residual/kernel"].shape == (300, 256) and "encoder/1/residual/kernel" not in params


def test_a_batch_norm_network_learns_statistics_of_real_nodes():
    method = dataclasses.replace(GAT, encoder="gin", decoder="gin", norm="batch")
    params, stats = start(method)
    _, aux = loss(method, params, stats, train=True)
    before, after = tree.flatten(stats), tree.flatten(aux.stats)
    assert start(GAT)[1] == {}  # no empty entries: a checkpoint would lose them
    assert {path.split("/")[-1] for path in after} == {"mean", "var", "eps"} and method.couples == ("bn",)
    for path, leaf in after.items():
        assert (leaf == before[path]).all() == path.endswith("eps"), path


def test_pictures_of_a_right_direction_are_the_original(gat):
    params, stats = gat
    _, aux = loss(GAT, params, stats)
    drawn = GAT.pictures(aux.seen | {"pred": 3.0 * BATCH["nodes"]}, BATCH)
    for what in ("reconstruction", "pasted"):
        np.testing.assert_allclose(drawn[what], drawn["original"], atol=1e-5)
    assert drawn["original"].shape == (4, F, N, 1)
    assert drawn["original"].min() >= 0 and drawn["original"].max() <= 1
    blank = (np.asarray(drawn["masked"]) == 0).all((1, 3))
    np.testing.assert_array_equal(blank, aux.seen["hidden"])


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(heads=3), "method.dim=8 must be a multiple of method.heads=3"),
        (dict(mask_ratio=1.0), "method.mask_ratio=1.0 is a share"),
        (dict(mask_ratio=0.05), "hides none of 14 nodes"),
        (dict(alpha=0.5), "method.alpha=0.5"),
        (dict(task="node", bucket=2), "method.bucket=2"),
        (dict(depth=0), "method.depth=0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(GAT, **fields).check()
