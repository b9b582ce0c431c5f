r"""MAE, ViT-T/2, CIFAR-100 at 32 px, 400 epochs (":2000" for 2000): the recipe of vit_t2_cifar10.py.

Run:      mae_jax train --config configs/mae/vit_t2_cifar100.py \
              --workdir runs/cifar100 --config.data.path=/data/cifar-100-binary
Hardware: one GPU. Estimated, not measured: 400 epochs are 1.1e17 FLOP, 0.5 to 1 h on an A100 at 20 to 10 % of its
          peak. Where memory is short raise train.microbatches. Nothing of this config has been run on a GPU.
Expect:   no published number for this recipe, and none measured. Another lightweight ViT (3.65 M parameters, images
          brought to 36 px) reached 78.27 % by fine-tuning after MAE pretraining (arXiv 2402.03752).
"""

from _cifar import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, "cifar100")
