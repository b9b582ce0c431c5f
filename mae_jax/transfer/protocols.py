"""The protocols of `mae_jax evaluate` that train something, by name; each is imported when it is asked for.

The others, which fit cached features, are in eval/probes.py: PROTOCOLS.
"""

import importlib
from collections.abc import Callable
from typing import Any

# (opened weights, training source, test source) -> eval.probes.Result. Options are read from opened.config.transfer.
Trained = Callable[[Any, Any, Any], Any]


def lazily(module: str, function: str) -> Trained:
    """A function of another module here, imported when it is called."""

    def call(opened: Any, train: Any, test: Any) -> Any:
        return getattr(importlib.import_module(f"mae_jax.transfer.{module}"), function)(opened, train, test)

    return call


TRAINED: dict[str, tuple[str, Trained]] = {
    "linear_paper": ("linear probe (paper)", lazily("linear", "linear_paper")),
    "attentive": ("attentive probe", lazily("attentive", "attentive")),
    "prototypes": ("prototypical probe", lazily("prototypes", "prototypical")),
    "finetune": ("fine-tuning", lazily("task", "finetune_protocol")),
    "episodes": ("few-shot episodes, fine-tuned", lazily("episodes", "episodes_protocol")),
    "segment": ("segmentation, linear (mIoU)", lazily("segment", "linear_protocol")),
    "segment_upernet": ("segmentation, UperNet (mIoU)", lazily("segment", "upernet_protocol")),
    "classify": ("its own head", lazily("task", "classify_protocol")),
}

PIXELS = frozenset({"segment", "segment_upernet"})  # these read a class per pixel, all others one per record
