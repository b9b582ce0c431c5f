r"""Point-CMAE fine-tuned on ModelNet40, 1024 points (8192 with ":full,8k"); frozen with ":linear" or ":mlp3".

Run:      mae_jax finetune --config configs/pointcmae/finetune_modelnet40.py:full \
              --workdir runs/pointcmae_shapenet55 --out runs/pointcmae_modelnet40 \
              --config.data.path=/data/modelnet40_normal_resampled
Hardware: one GPU; no hours published. 22.1 M parameters.
Expect:   no number for ModelNet40 is known here (docs/methods/pointcmae.md).
"""

from _pointcmae_shapes import finetuning
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: "full" (the default), "linear" or "mlp3", with ",8k" for 8192 points."""
    protocol, _, size = (arg or "full").partition(",")
    if size == "8k":
        return finetuning(
            8192, 512, protocol=protocol, rate=5e-4, stored=0, candidates=0, layout="modelnet40"
        )  # fmt: skip
    return finetuning(1024, 64, protocol=protocol, rate=1e-4, stored=8192, candidates=1200, layout="modelnet40")
