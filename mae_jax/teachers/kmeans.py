"""A codebook of raw patches: an .npz with "centroids" [vocab, pixels of a patch x channels], in [0, 1].

`python benchmarks/codebook.py` made the bundled one, and makes others.
"""

from typing import Any

from mae_jax.interop.names import Rule
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of a `KMeans` (nets/tokenizers.py)."""
    return files.tokenizer_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """The centroids, of the number and size that the method says."""
    return files.load_mapped(spec, shapes(spec), lambda tensors: [Rule("centroids", "centroids")])
