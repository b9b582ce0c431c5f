r"""MAE, ViT-T/2, CIFAR-10 at 32 px, 400 epochs (":2000" for the published length): a check within an hour on one GPU.

Run:      mae_jax train --config configs/mae/vit_t2_cifar10.py \
              --workdir runs/cifar10 --config.data.path=/data/cifar-10-batches-bin
Hardware: one GPU. Estimated, not measured: 400 epochs are 1.1e17 FLOP, 0.5 to 1 h on an A100 at 20 to 10 % of its
          peak. Where memory is short raise train.microbatches. Nothing of this config has been run on a GPU.
Expect:   published by github.com/IcarusWizard/MAE, not measured here: after 2000 epochs fine-tuning 89.77 %, and
          74.13 % for the same ViT from scratch (test set, no augmentation). For 400 epochs there is no published
          number; docs/reference_runs.md says what to look at meanwhile.
"""

from _cifar import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, "cifar10")
