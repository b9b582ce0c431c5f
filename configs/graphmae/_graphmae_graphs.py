"""GraphMAE's recipe for the classification of graphs (GraphMAE, configs.yml and main_graph.py): GIN on the TU sets."""

from ml_collections import ConfigDict


def recipe(
    name: str,
    graphs: int,
    epochs: int,
    batch: int,
    pool: str,
    rate: float,
    sizes: dict[str, int],
    *,
    cosine: bool = False,
    decay: float = 0.0,
    **method,
) -> ConfigDict:
    """The whole config; `graphs` is how many the set has, for the length of an epoch."""
    steps = epochs * -(-graphs // batch)
    return ConfigDict(
        dict(
            method=dict(
                name="graphmae", task="graph", encoder="gin", decoder="gin", drop=0.2, error="sce", bucket=batch,
                **({"norm": "batch", "activation": "prelu"} | method), **sizes,
            ),
            data=dict(source="tu", name=name, nodes=sizes["nodes"], edges=sizes["edges"]),  # data.path: the folder
            optim=dict(
                name="adam", learning_rate=rate, scaling="none", schedule="cosine" if cosine else "constant", b2=0.999,
                weight_decay=decay, decay_rules=((".*", 1.0),),
            ),
            train=dict(steps=steps, batch=batch),
            checkpoint=dict(every=max(steps // 5, 1)),
            eval=dict(protocols=("svm",), pool=pool, batch=batch),
            log=dict(every=20),
        )
    )  # fmt: skip
