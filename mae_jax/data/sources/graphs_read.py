"""Graph data sets in the files that their authors published: Planetoid's pickles and the TU collection's text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, held_out, split_name
from mae_jax.data.sources.graphs import Graphs, RawGraph, both_ways, one_hot
from mae_jax.data.sources.unpickle import ArrayUnpickler

MAX_DEGREE = 400  # a node of more has the feature of this degree (GraphMAE)


@dataclass(frozen=True)
class Planetoid(Spec):
    """Cora, Citeseer or PubMed (Yang et al., 2016): ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index} in one folder.

    Features are divided by their sum, as DGL ships them. Labels: in the training split those of the 20 nodes per class
    that the public split trains on, in the test split those of its 1000 test nodes; its validation nodes in neither.

    Args:
        path: the folder.
        name: "cora", "citeseer" or "pubmed".
    """

    path: str
    name: str = "cora"

    def open(self, split: str) -> Source:
        root = Path(self.path).expanduser().absolute()
        tx, allx, y, ty, ally, links = (self._load(root, part) for part in ("tx", "allx", "y", "ty", "ally", "graph"))
        tested = np.loadtxt(self._file(root, "test.index"), dtype=np.int64, ndmin=1)
        n = max(len(links), int(tested.max()) + 1)  # Citeseer has test nodes that nothing is said of
        features = np.zeros((n, allx.shape[1]), np.float32)
        label = np.full(n, -1)
        for rows, x, own in ((np.arange(allx.shape[0]), allx, ally), (tested, tx, ty)):
            features[rows], label[rows] = x.toarray(), np.argmax(own, axis=1)
        total = features.sum(1, keepdims=True)
        features /= np.where(total > 0, total, 1.0)
        pairs = np.array([(i, j) for i, ends in links.items() for j in ends], np.int64).reshape(-1, 2)
        shown = np.arange(len(y)) if split_name(split) == "train" else tested
        mask = np.isin(np.arange(n), shown)
        classes = [f"class {c}" for c in range(y.shape[1])]
        graph = RawGraph(features, *both_ways(pairs, n))
        return Graphs([graph], [np.where(mask, label, -1)], f"planetoid {self.name}", classes)

    def _file(self, root: Path, part: str) -> Path:
        path = root / f"ind.{self.name}.{part}"
        if not path.is_file():
            raise UserError(
                f"{path} is not there: data.path must be the folder of Planetoid's raw files, ind.{self.name}.x and so "
                f"on (github.com/kimiyoung/planetoid, data/)."
            )
        return path

    def _load(self, root: Path, part: str) -> Any:
        with self._file(root, part).open("rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()


@dataclass(frozen=True)
class TU(Spec):
    """A set of the TU collection (chrsmrrs.github.io/datasets): NAME_A.txt, NAME_graph_indicator.txt, ... in a folder.

    A node's feature is its label, one-hot; where nodes have none, its in-degree, one-hot, up to 400 (GraphMAE).

    Args:
        path: the folder. name: of the set, as "MUTAG" or "IMDB-BINARY".
        holdout: share of graphs for testing, decided by each graph's number.
        nodes, edges: sizes to pad to; 0: those of the largest graph of the whole set.
    """

    path: str
    name: str
    holdout: float = 0.1
    nodes: int = 0
    edges: int = 0

    def open(self, split: str) -> Source:
        owner = self._read("graph_indicator") - 1
        ends = self._read("A").reshape(-1, 2) - 1
        first = np.searchsorted(owner, np.arange(owner[-1] + 1))
        names, label = np.unique(self._read("graph_labels"), return_inverse=True)
        features = self._features(ends, len(owner))
        of_edge = owner[ends[:, 0]]
        order = np.argsort(of_edge, kind="stable")
        cuts = np.searchsorted(of_edge[order], np.arange(1, len(first)))
        graphs = [
            RawGraph(x, *(e - start).T)
            for x, e, start in zip(np.split(features, first[1:]), np.split(ends[order], cuts), first)
        ]
        nodes = self.nodes or max(len(g.features) for g in graphs)
        edges = self.edges or max(len(g.features) + int((g.senders != g.receivers).sum()) for g in graphs)
        held = held_out([f"{self.name}/{i}".encode() for i in range(len(graphs))], self.holdout)
        numbers = np.flatnonzero(held == (split_name(split) == "test"))
        chosen = [graphs[i] for i in numbers], label[numbers]
        return Graphs(*chosen, f"tu {self.name}", [str(c) for c in names], nodes, edges, numbers)

    def _features(self, ends: np.ndarray, n: int) -> np.ndarray:
        if self._path("node_labels").is_file():
            label = self._read("node_labels").reshape(n, -1)[:, 0]
            return one_hot(label - label.min(), int(np.ptp(label)) + 1)
        degree = np.minimum(np.bincount(ends[:, 1], minlength=n), MAX_DEGREE)
        return one_hot(degree, int(degree.max()) + 1)

    def _path(self, part: str) -> Path:
        return Path(self.path).expanduser().absolute() / f"{self.name}_{part}.txt"

    def _read(self, part: str) -> np.ndarray:
        path = self._path(part)
        if not path.is_file():
            raise UserError(
                f"{path} is not there: data.path must be the unpacked folder of {self.name} from the TU collection "
                f"(chrsmrrs.github.io/datasets)."
            )
        return np.loadtxt(path, dtype=np.int64, delimiter=",", ndmin=1)
