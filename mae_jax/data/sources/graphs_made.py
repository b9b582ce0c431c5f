"""Graphs that need no download: a stochastic block model, and the small social networks that networkx holds."""

from dataclasses import dataclass

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Source, Spec, split_name
from mae_jax.data.sources.digits import stratified_test
from mae_jax.data.sources.graphs import Graphs, RawGraph, both_ways, one_hot

# name: (networkx's function, the node attribute that is the label)
NETWORKS = {
    "karate": ("karate_club_graph", "club"),
    "davis": ("davis_southern_women_graph", "bipartite"),
    "florentine": ("florentine_families_graph", None),
    "les_miserables": ("les_miserables_graph", None),
}


@dataclass(frozen=True)
class StochasticBlocks(Spec):
    """One graph of communities, nodes sorted by class; edges and features both tell of the class, both noisily.

    Two nodes are joined with probability `inside` where their classes agree, else `across`. A class has a prototype,
    each feature being part of it with probability `prototype`; a node's feature is 1 with probability `on` where its
    class's prototype has it, else `off`; the last feature is always 1. The splits share the graph and differ in the
    nodes whose labels they show.

    Args:
        nodes, classes, features: how many.
        inside, across, prototype, on, off: the probabilities above.
        labelled: nodes whose labels the training split shows, as many of each class; the test split shows the rest.
        edges: the number to pad to, self-loops included; 0: as many as there are.
        seed: of everything.
    """

    nodes: int = 400
    classes: int = 4
    features: int = 64
    inside: float = 0.05
    across: float = 0.006
    prototype: float = 0.2
    on: float = 0.3
    off: float = 0.08
    labelled: int = 40
    edges: int = 0
    seed: int = 0

    def open(self, split: str) -> Source:
        if not self.classes <= self.labelled < self.nodes or self.features < 2:
            raise UserError(
                f"The sbm source needs data.classes <= data.labelled < data.nodes and two features: given classes="
                f"{self.classes}, labelled={self.labelled}, nodes={self.nodes}, features={self.features}."
            )
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 0]))
        label = np.arange(self.nodes) * self.classes // self.nodes
        joined = np.where(label[:, None] == label, self.inside, self.across) > rng.random((self.nodes, self.nodes))
        pairs = np.argwhere(np.triu(joined, 1))
        prototype = rng.random((self.classes, self.features)) < self.prototype
        chance = np.where(prototype, self.on, self.off)[label]
        features = (rng.random(chance.shape) < chance).astype(np.float32)
        features[:, -1] = 1
        shown = np.zeros(self.nodes, bool)
        for c in range(self.classes):
            shown[rng.permutation(np.flatnonzero(label == c))[: self.labelled // self.classes]] = True
        own = np.where(shown == (split_name(split) == "train"), label, -1)
        graph = RawGraph(features, *both_ways(pairs, self.nodes))
        return Graphs([graph], [own], "sbm", [f"block {c}" for c in range(self.classes)], edges=self.edges)


@dataclass(frozen=True)
class Networkx(Spec):
    """One of networkx's own graphs: a node's feature is its degree, one-hot; half of each class is for testing.

    Args:
        name: "karate" (34 members of a club that split in two), "davis" (18 women and 14 events), "florentine"
            (15 families) or "les_miserables" (77 characters); the last two have no labels.
    """

    name: str = "karate"

    def open(self, split: str) -> Source:
        split = split_name(split)
        if self.name not in NETWORKS:
            raise UserError(
                f"data.name='{self.name}' is no graph of the networkx source. {nearest(self.name, NETWORKS)}"
            )
        try:
            import networkx
        except ImportError as error:
            raise UserError("The networkx source needs the package networkx: pip install networkx.") from error
        make, attribute = NETWORKS[self.name]
        g = networkx.convert_node_labels_to_integers(getattr(networkx, make)())
        n = g.number_of_nodes()
        senders, receivers = both_ways(np.array(g.edges())[:, :2], n)
        degree = np.bincount(receivers, minlength=n)
        graph = RawGraph(one_hot(degree, int(degree.max()) + 1), senders, receivers)
        if attribute is None:
            return Graphs([graph], [np.full(n, -1)], f"networkx {self.name}")
        names, label = np.unique([str(g.nodes[i][attribute]) for i in range(n)], return_inverse=True)
        shown = stratified_test(label, test=n // 2) == (split == "test")
        return Graphs([graph], [np.where(shown, label, -1)], f"networkx {self.name}", [str(c) for c in names])
