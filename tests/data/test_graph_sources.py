"""Graph sources: what they hold, what their splits show, and their authors' file formats."""

import pickle
from collections import defaultdict

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source


def ends(record):
    """{(sender, receiver)} of the real edges, which are all different."""
    real = record["edge_valid"]
    pairs = list(zip(record["senders"][real].tolist(), record["receivers"][real].tolist()))
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def loops(n):
    return {(i, i) for i in range(n)}


def test_stochastic_blocks_have_the_densities_they_say():
    fields = {"nodes": 800, "labelled": 40, "edges": 12000}
    train, test = (make_source("sbm", split, fields) for split in ("train", "test"))
    record, label = train[0], np.arange(800) // 200
    found = ends(record)
    assert record["edge_valid"].shape == (12000,) and found >= loops(800)
    assert all((j, i) in found for i, j in found) and ends(test[0]) == found
    inside = sum(label[i] == label[j] for i, j in found) - 800
    across = len(found) - 800 - inside
    assert abs(inside / (4 * 200 * 199) - 0.05) < 0.003 and abs(across / (12 * 200 * 200) - 0.006) < 0.0006
    assert np.bincount(train.labels[0] + 1).tolist() == [760, 10, 10, 10, 10]
    shown = [source.labels[0] >= 0 for source in (train, test)]
    assert (shown[0] ^ shown[1]).all() and (np.where(shown[0], *(s.labels[0] for s in (train, test))) == label).all()
    assert (record["nodes"][:, -1] == 1).all() and set(np.unique(record["nodes"])) == {0.0, 1.0}
    other = make_source("sbm", "train", fields | {"seed": 1})[0]
    assert ends(other) != found


def test_karate_is_zachary_s():
    pytest.importorskip("networkx")
    train, test = (make_source("networkx", split, {"name": "karate"}) for split in ("train", "test"))
    record = train[0]
    assert ends(record) >= loops(34) and len(ends(record)) == 2 * 78 + 34
    assert record["nodes"].argmax(1).tolist()[:2] == [16, 9] and train.classes == ("Mr. Hi", "Officer")
    assert (train.labels[0] >= 0).sum() == (test.labels[0] >= 0).sum() == 17
    with pytest.raises(UserError, match="Did you mean 'karate'"):
        make_source("networkx", "train", {"name": "carate"})


@pytest.fixture
def planetoid(tmp_path):
    """Six nodes, 0 1 of them for training, 3 5 for testing (in the order 5 3); 4 is in the graph alone."""
    x = np.array([[1, 1, 0], [0, 2, 0], [1, 0, 3]], np.float32)
    y = np.eye(2, dtype=np.int32)[[0, 1, 1]]
    parts = {
        "x": csr_matrix(x[:2]), "y": y[:2], "allx": csr_matrix(x), "ally": y,
        "tx": csr_matrix(np.array([[0, 0, 5], [4, 0, 4]], np.float32)), "ty": np.eye(2, dtype=np.int32)[[1, 0]],
        "graph": defaultdict(list, {0: [1, 5], 1: [0, 0], 2: [2, 3], 3: [2], 4: [], 5: [0]}),
    }  # fmt: skip
    for name, value in parts.items():
        old = pickle.dumps(value, protocol=2).replace(b"scipy.sparse._csr", b"scipy.sparse.csr")  # as Python 2 wrote it
        (tmp_path / f"ind.cora.{name}").write_bytes(old.replace(b"numpy._core", b"numpy.core"))
    (tmp_path / "ind.cora.test.index").write_text("5\n3\n")
    return tmp_path


def test_planetoid(planetoid):
    train, test = (make_source("planetoid", split, {"path": str(planetoid)}) for split in ("train", "test"))
    assert ends(train[0]) == loops(6) | {(0, 1), (1, 0), (0, 5), (5, 0), (2, 3), (3, 2)}
    wanted = [[0.5, 0.5, 0], [0, 1, 0], [0.25, 0, 0.75], [0.5, 0, 0.5], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(train[0]["nodes"], np.array(wanted, np.float32))
    assert train.labels.tolist() == [[0, 1, -1, -1, -1, -1]] and test.labels.tolist() == [[-1, -1, -1, 0, -1, 1]]


def test_a_pickle_that_does_more_is_refused(planetoid):
    class Bad:
        def __reduce__(self):
            return print, ("code of a stranger",)

    (planetoid / "ind.cora.graph").write_bytes(pickle.dumps(Bad(), protocol=2))
    with pytest.raises(UserError, match="print"):
        make_source("planetoid", "train", {"path": str(planetoid)})
    with pytest.raises(UserError, match=r"ind\.citeseer\.tx is not there"):
        make_source("planetoid", "train", {"path": str(planetoid), "name": "citeseer"})


@pytest.fixture
def tu(tmp_path):
    """Two triangles and a pair (nodes 1-3, 4-6, 7-8); labels -1, 1, 1."""
    pairs = [(1, 2), (2, 3), (1, 3), (4, 5), (5, 6), (4, 6), (7, 8)]
    text = "".join(f"{a}, {b}\n{b}, {a}\n" for a, b in pairs)
    (tmp_path / "T_A.txt").write_text(text)
    (tmp_path / "T_graph_indicator.txt").write_text("\n".join("11122233"))
    (tmp_path / "T_graph_labels.txt").write_text("-1\n1\n1\n")
    return tmp_path


def test_tu_by_degree_and_by_label(tu):
    splits = [make_source("tu", split, {"path": str(tu), "name": "T", "holdout": 0.4}) for split in ("train", "test")]
    assert sorted(int(n) for s in splits for n in s.numbers) == [0, 1, 2]
    assert splits[0].classes == ("-1", "1")
    for source in splits:
        for i, number in enumerate(source.numbers):
            record, n = source[i], 2 if number == 2 else 3
            assert ends(record) == {(a, b) for a in range(n) for b in range(n)} and record["node_valid"].sum() == n
            assert record["nodes"].shape == (3, 3) and record["nodes"][:n].argmax(1).tolist() == [n - 1] * n
            assert (record["nodes"][n:] == 0).all() and record["label"] == (number > 0)
    (tu / "T_node_labels.txt").write_text("\n".join("34334334"))
    labelled = make_source("tu", "train", {"path": str(tu), "name": "T", "holdout": 0.0})
    assert [r["nodes"][:2].argmax(1).tolist() for r in (labelled[0], labelled[2])] == [[0, 1], [0, 1]]
    with pytest.raises(UserError, match=r"9 edges .* data\.edges=8"):
        make_source("tu", "train", {"path": str(tu), "name": "T", "edges": 8})


def test_graphs_in_one_file(tmp_path):
    path = tmp_path / "g.npz"
    arrays = dict(
        nodes=np.arange(10, dtype=np.float32).reshape(5, 2), node_count=[2, 3],
        edges=np.array([[0, 1], [1, 0], [0, 2], [2, 0], [1, 1]]), edge_count=[2, 3], label=[1, 0],
        train=[True, False], test=[False, True],
    )  # fmt: skip
    np.savez(path, **arrays)
    train, test = (make_source("graphs_npz", s, {"path": str(path), "nodes": 4}) for s in ("train", "test"))
    assert len(train) == len(test) == 1 and train.labels.tolist() == [1] and test.numbers.tolist() == [1]
    assert ends(train[0]) == loops(2) | {(0, 1), (1, 0)} and ends(test[0]) == loops(3) | {(0, 2), (2, 0)}
    np.testing.assert_array_equal(test[0]["nodes"], [[4, 5], [6, 7], [8, 9], [0, 0]])
    # One graph, a label per node, masks of nodes, standardised.
    np.savez(
        path, nodes=arrays["nodes"], edges=arrays["edges"], label=[0, 1, 2, 0, 1], test=np.ones(5) == [1, 0, 0, 0, 1]
    )
    source = make_source("graphs_npz", "test", {"path": str(path), "standardise": True})
    assert source.labels.tolist() == [[0, -1, -1, -1, 1]] and source.classes == ("0", "1", "2")
    np.testing.assert_allclose(source[0]["nodes"].std(0), 1, rtol=1e-6)
    np.savez(path, nodes=arrays["nodes"])
    with pytest.raises(UserError, match="no 'edges'"):
        make_source("graphs_npz", "train", {"path": str(path)})


def test_records_are_what_the_method_reads():
    from mae_jax.methods.graphmae import GraphMAE

    method = GraphMAE(nodes=40, edges=400, features=8)
    fields = {"nodes": 40, "features": 8, "labelled": 8, "inside": 0.3, "edges": 400}
    record = make_source("sbm", "train", fields)[0]
    for name, leaf in method.batch_spec.items():
        assert record[name].shape == leaf.shape and record[name].dtype == leaf.dtype, name
