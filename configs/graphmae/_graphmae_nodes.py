"""GraphMAE's recipe for nodes of one large graph (GraphMAE, configs.yml and main_transductive.py)."""

from typing import Any

from ml_collections import ConfigDict


def recipe(data: dict[str, Any], steps: int, rate: float, decay: float, sizes: dict[str, int], **method) -> ConfigDict:
    """The whole config: an epoch is a step, Adam with the decay inside the gradient, half a cosine."""
    return ConfigDict(
        dict(
            method=dict(
                name="graphmae", task="node", encoder="gat", decoder="gat", activation="prelu", drop=0.2,
                attention_drop=0.1, error="sce", **sizes, **method,
            ),
            data=data,
            optim=dict(
                name="adam", learning_rate=rate, scaling="none", b2=0.999, weight_decay=decay,
                decay_rules=((".*", 1.0),),
            ),
            train=dict(steps=steps, batch=1),
            checkpoint=dict(every=max(steps // 5, 1)),
            eval=dict(every=max(steps // 5, 1), online=("linear",), protocols=("linear",), pool="tokens", batch=1),
            log=dict(every=20),
        )
    )  # fmt: skip
