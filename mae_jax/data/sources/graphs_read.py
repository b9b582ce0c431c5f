"""Graph data sets in the files that their authors published: Planetoid's pickles and the TU collection's text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core import pickles
from mae_jax.core.errors import UserError
from mae_jax.data.limits import read_file
from mae_jax.data.sources.base import Source, Spec, held_out, split_name
from mae_jax.data.sources.graphs import Graphs, RawGraph, both_ways, one_hot

MAX_NODES = 10_000_000  # numbers of nodes
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
        try:
            tested = np.loadtxt(self._file(root, "test.index"), dtype=np.int64, ndmin=1)
        except ValueError as error:
            raise UserError(f"{root}: ind.{self.name}.test.index should hold whole numbers: {error}.") from error
        n = max(len(links), int(tested.max(initial=-1)) + 1)  # Citeseer has test nodes that nothing is said of
        rows_fit = len(allx) == len(ally) and len(tx) == len(ty) == len(tested) and len(y) <= len(allx) <= n
        wide = n * allx.shape[1] > 2**31 or n > MAX_NODES or tested.min(initial=0) < 0
        if not rows_fit or wide or tx.shape[1] != allx.shape[1] or _largest(links) >= n:
            raise UserError(f"{root}: the files ind.{self.name}.* do not fit each other. Are they of one data set?")
        features = np.zeros((n, allx.shape[1]), np.float32)
        label = np.full(n, -1)
        for rows, x, own in ((np.arange(allx.shape[0]), allx, ally), (tested, tx, ty)):
            features[rows], label[rows] = x, np.argmax(own, axis=1)
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
        path = self._file(root, part)
        try:
            content = pickles.load(read_file(path, 256 << 20))
            if part == "graph":
                return _neighbours(content)
            return pickles.as_matrix(content) if part.endswith("x") else _one_hot_rows(pickles.as_array(content))
        except ValueError as error:
            raise UserError(f"{path} cannot be read: {error}. Is it whole, and one of Planetoid's files?") from error


def _neighbours(content: Any) -> dict[int, list[int]]:
    """{node: its neighbours}, whole numbers all of them. Raises ValueError."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {pickles.said(content)} where lists of neighbours by node are expected")
    for node, ends in content.items():
        if type(node) is not int or not isinstance(ends, list) or any(type(end) is not int for end in ends):
            raise ValueError("it holds no lists of neighbours by node")
        if not all(0 <= number < MAX_NODES for number in (node, *ends)):
            raise ValueError(f"it names nodes outside 0..{MAX_NODES - 1}")
    return content


def _largest(links: dict[int, list[int]]) -> int:
    return max((max(node, *ends) if ends else node for node, ends in links.items()), default=-1)


def _one_hot_rows(y: np.ndarray) -> np.ndarray:
    if y.ndim != 2 or not y.size:
        raise ValueError(f"its labels have shape {y.shape}: rows of classes expected")
    return y


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
        owner, ends = self._read("graph_indicator") - 1, self._read("A") - 1
        several = owner.ndim == 1 and len(owner) > 0 and owner[0] == 0 and np.isin(np.diff(owner), (0, 1)).all()
        pairs = ends.ndim == 2 and ends.shape[1] == 2 and 0 <= ends.min(initial=0) <= ends.max(initial=0) < len(owner)
        if not several or not pairs:
            raise UserError(
                f"{self._path('A')} and {self._path('graph_indicator')} do not fit each other: pairs of nodes, and the "
                f"graph of each node from 1 on without a gap, are expected."
            )
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
            labels = self._read("node_labels")
            label = labels.reshape(len(labels), -1)[:, 0]
            span = int(label.max()) - int(label.min()) if len(label) == n else -1
            if not 0 <= span < 2**16:
                raise UserError(f"{self._path('node_labels')} should hold {n} labels, of at most {2**16} kinds.")
            return one_hot(label - label.min(), span + 1)
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
        try:
            return np.loadtxt(path, dtype=np.int64, delimiter=",", ndmin=1)
        except ValueError as error:
            raise UserError(f"{path} should hold whole numbers between commas: {error}.") from error
