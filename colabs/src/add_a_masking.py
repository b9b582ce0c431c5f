# %% [markdown]
# # A masking of your own, in thirty lines
#
# A masked autoencoder that hides one connected region instead of scattered patches. The method lives in a file of
# yours; the package is not touched. It is checked, trained, drawn, and compared with the original on scikit-learn's
# digits.
# %% install
# %%
# @title Settings
STEPS = 400  # @param {type:"integer"}
# %% [markdown]
# ## The method
#
# A masking is a score per patch: the patches of the **lowest** scores stay visible. Here a centre is drawn for each
# image, and the nearer a patch is to it, the higher its score, so that a disc is hidden. Draws go by name
# (`ctx.uniform("centre", ...)`): they depend on neither the number of devices nor on interruptions. Everything else
# is MAE's.
# %%
from pathlib import Path

Path("region.py").write_text(
    '''
"""MAE that hides a connected region of each image."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp

from mae_jax.masking.select import keep_count, select
from mae_jax.methods.mae import MAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region(MAE):
    """MAE with scores that fall with the distance from a random centre.

    Attributes:
      roughness: how far the region's border is frayed, in patches; 0: not at all.
    """

    name: ClassVar[str] = "region"

    roughness: float = 0.5

    def mask(self, ctx, image):
        (rows, columns), b = self.grid, len(image)
        place = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), -1).reshape(1, -1, 2)
        centre = ctx.uniform("centre", (b, 1, 2)) * jnp.array([[[rows, columns]]]) - 0.5
        distance = jnp.sqrt(jnp.square(place - centre).sum(-1))
        scores = self.roughness * ctx.uniform("mask", distance.shape) - distance  # the lowest stay visible
        return select(scores, keep_count(math.prod(self.grid), self.mask_ratio))
'''.lstrip()
)
# %% [markdown]
# ## Does it hold what every method must?
#
# Some of the checks that the package's own methods are held to: nothing hidden reaches the encoder, every parameter
# has a gradient. `conformance.check(small)` runs them all, and `mae_jax new NAME` writes a method with such a test
# beside it.
# %%
from mae_jax import methods
from mae_jax.testing import conformance

Region = methods.get("region.py")  # as configs name it: method.name="region.py"
small = Region(
    image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1,
    decoder_heads=3,
)  # fmt: skip
case = conformance.case(small)
for name in ("init", "leak", "gradients", "pictures"):
    conformance.run(name, case)  # says what is wrong, if anything is
    print(name, "passed")
# %% [markdown]
# ## Train it, and the original beside it
#
# The same config twice; only `method.name` differs.
# %%
from mae_jax.config import resolve
from mae_jax.train.loop import train

for name in ("region.py", "mae"):
    config = resolve(
        dict(
            method=dict(
                name=name, image_size=8, patch=2, channels=1, dim=64, depth=3, heads=4, decoder_dim=48,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.5,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=3e-3, warmup=STEPS // 8),
            train=dict(steps=STEPS, batch=256),
            mesh=dict(scan=True),  # equal blocks as a loop: compiles faster
            eval=dict(protocols=("linear", "knn"), raw=False),
            log=dict(every=max(STEPS // 8, 1)),
        )
    )  # fmt: skip
    train(config, Path("runs") / name.removesuffix(".py"))
# %% [markdown]
# ## What it hides
#
# Columns: original, what the encoder sees, prediction, prediction with the visible patches pasted in.
# %%
from PIL import Image

Image.open(sorted(Path("runs/region/pictures").glob("*.png"))[-1])
# %%
Image.open(sorted(Path("runs/mae/pictures").glob("*.png"))[-1])
