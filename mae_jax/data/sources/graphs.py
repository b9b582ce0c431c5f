"""Graphs as padded arrays, and graphs in one .npz file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, split_name
from mae_jax.data.sources.npz import member, members


class RawGraph(NamedTuple):
    """One graph as it is: features [n, d], and the ends of its edges [e] as numbers of nodes."""

    features: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray


class Graphs(Source):
    """Graphs padded to equal sizes, each node with a self-loop.

    Records: nodes float32 [n, d], senders and receivers int32 [e], node_valid bool [n], edge_valid bool [e].

    Args:
        graphs: each without padding; their own self-loops are replaced.
        labels: int [graphs], or one array per graph with a label for each node; -1: none, or not of this split.
        nodes, edges: the sizes to pad to, self-loops included; 0: those of the largest graph.
    """

    def __init__(
        self, graphs: Sequence[RawGraph], labels: Any, title: str, classes: Sequence[str] = (), nodes: int = 0,
        edges: int = 0, numbers: Any = None,
    ):  # fmt: skip
        if not graphs:
            raise UserError(f"{title} holds no graph in this split.")
        self.graphs = [with_loops(g) for g in graphs]
        self.title, self.classes = title, tuple(classes)
        self.numbers = np.arange(len(graphs)) if numbers is None else np.asarray(numbers)
        most = {
            "nodes": max(len(g.features) for g in self.graphs), "edges": max(len(g.senders) for g in self.graphs)
        }  # fmt: skip
        for what, given in (("nodes", nodes), ("edges", edges)):
            if 0 < given < most[what]:
                raise UserError(
                    f"{title}: its largest graph has {most[what]} {what} (self-loops included), but "
                    f"data.{what}={given}: set data.{what} and method.{what} to at least {most[what]}."
                )
        self.nodes, self.edges = nodes or most["nodes"], edges or most["edges"]
        if np.ndim(labels[0]) == 0:
            self.labels = np.asarray(labels, np.int32)
        else:
            self.labels = np.stack([_pad(np.asarray(own, np.int32), self.nodes, -1) for own in labels])

    def __getitem__(self, i: int) -> dict[str, Any]:
        g = self.graphs[i]
        return {
            "nodes": _pad(g.features.astype(np.float32), self.nodes),
            "senders": _pad(g.senders.astype(np.int32), self.edges),
            "receivers": _pad(g.receivers.astype(np.int32), self.edges),
            "node_valid": np.arange(self.nodes) < len(g.features),
            "edge_valid": np.arange(self.edges) < len(g.senders),
            "label": self.labels[i],
        }

    def name(self, i: int) -> str:
        return f"{self.title} #{self.numbers[i]}"

    def describe(self) -> str:
        nodes = sum(len(g.features) for g in self.graphs)
        edges = sum(len(g.senders) for g in self.graphs)
        return (
            f"{self.title}: {len(self)} graph(s), {nodes} nodes of {self.graphs[0].features.shape[1]} features, "
            f"{edges} edges with self-loops, padded to {self.nodes} and {self.edges}, {label_phrase(self)}"
        )


@dataclass(frozen=True)
class GraphsNpz(Spec):
    """Graphs in one .npz, end to end: what other tools (OGB, rdkit) can write with numpy alone.

    - nodes [N, d] float: the features of all graphs' nodes. node_count [g]: how many of them each graph has.
    - edges [E, 2]: sender and receiver of all edges, both directions, numbered within their graph. edge_count [g].
      Without the counts the file holds one graph.
    - label, optional: int [g] or [N]; -1: none.
    - train and test, optional: bool [g], which graphs a split has, or [N], which nodes' labels it has. Without them
      data.holdout of the graphs (of a single graph: of the labelled nodes) are for testing.

    Args:
        path: the file.
        holdout: the share kept for testing where there are no masks.
        nodes, edges: sizes to pad to; 0: those of the largest graph.
        standardise: give every feature mean 0 and deviation 1 over all nodes.
    """

    path: str
    holdout: float = 0.1
    nodes: int = 0
    edges: int = 0
    standardise: bool = False

    def open(self, split: str) -> Source:
        split, path = split_name(split), Path(self.path).expanduser().absolute()
        if not path.is_file():
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"data.path={path}: there is no such file. {nearest(path.name, beside)}")
        held = {key: np.asarray(member(path, key)) for key in members(path)}
        missing = [key for key in ("nodes", "edges") if key not in held]
        if missing:
            raise UserError(f"{path} holds {', '.join(held)}, but no '{missing[0]}' (GraphsNpz says which arrays).")
        features = standardised(held["nodes"]) if self.standardise else held["nodes"]
        counts = [np.asarray(held.get(f"{k}_count", [len(held[f"{k}s"])])) for k in ("node", "edge")]
        if (
            counts[0].sum() != len(features)
            or counts[1].sum() != len(held["edges"])
            or len(counts[0]) != len(counts[1])
        ):
            raise UserError(f"{path}: node_count and edge_count must add up to the rows of 'nodes' and 'edges'.")
        cuts = [np.cumsum(c)[:-1] for c in counts]
        parts = zip(np.split(features, cuts[0]), np.split(held["edges"], cuts[1]))
        graphs = [RawGraph(x, e[:, 0], e[:, 1]) for x, e in parts]
        labels = np.asarray(held.get("label", np.full(len(graphs), -1)))
        classes = [str(c) for c in range(labels.max(initial=-1) + 1)]
        per_node = len(labels) == len(features) and len(labels) != len(graphs)
        mask = np.asarray(held[split]) if split in held else self._mask(len(graphs), labels) == (split == "test")
        if per_node and len(mask) == len(labels):  # which nodes' labels
            labels, mask = np.where(mask, labels, -1), np.ones(len(graphs), bool)
        own = np.split(labels, cuts[0]) if per_node else labels
        numbers = np.flatnonzero(mask)
        title = f"graphs_npz {path.name}"
        chosen = [graphs[i] for i in numbers], [own[i] for i in numbers]
        return Graphs(*chosen, title, classes, self.nodes, self.edges, numbers)

    def _mask(self, graphs: int, labels: np.ndarray) -> np.ndarray:
        """Which are held out, of the graphs or of the single graph's nodes."""
        count = len(labels) if graphs == 1 else graphs
        return held_out([str(i).encode() for i in range(count)], self.holdout)


def with_loops(g: RawGraph) -> RawGraph:
    """The graph without its own self-loops, then one for every node, at the end."""
    kept, own = g.senders != g.receivers, np.arange(len(g.features))
    return RawGraph(
        g.features, np.concatenate([g.senders[kept], own]), np.concatenate([g.receivers[kept], own])
    )  # fmt: skip


def both_ways(pairs: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(senders, receivers) of the undirected graph of n nodes with these edges [e, 2], each direction once."""
    both = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    keys = np.unique(both[:, 0] * n + both[:, 1])
    return keys // n, keys % n


def standardised(x: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 per feature; a constant one becomes 0."""
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    return ((x - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """float32 [n, size]."""
    return (ids[:, None] == np.arange(size)).astype(np.float32)


def _pad(x: np.ndarray, size: int, value: int = 0) -> np.ndarray:
    """The first axis filled up to `size`."""
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), constant_values=value)
