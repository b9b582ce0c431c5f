# %% [markdown]
# # Reconstruct an image with a masked autoencoder
#
# An image in, most of it hidden, and what the model makes of the rest. With no weights of your own, a small model is
# trained first, on two photographs that come with scikit-learn (nothing is downloaded); on a CPU that takes about
# three minutes.
# %% install
# %%
# @title Settings
WEIGHTS = ""  # @param {type:"string"}
# a run's folder or a weights file; empty: train here
STEPS = 1500  # @param {type:"integer"}
# of training, where WEIGHTS is empty
IMAGE = ""  # @param {type:"string"}
# an image file (in Colab: drop it into the folder on the left); empty: crops of the photographs that training never saw
# %% [markdown]
# ## Train, or go on where the run stopped
#
# A config is a nested dict; `resolve` fills in what is left out and checks every key. `train` writes checkpoints,
# curves and pictures into a folder, and the same call on the same folder resumes.
# %%
from pathlib import Path

from mae_jax.config import resolve
from mae_jax.train.loop import train

if not WEIGHTS:
    config = resolve(
        dict(
            method=dict(
                name="mae", image_size=64, patch=8, channels=3, dim=128, depth=4, heads=4, decoder_dim=128,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.75, norm_pix=False,
            ),
            data=dict(source="photos", crops=4096),
            augment=dict(crop_scale=(0.02, 0.15), flip=True),
            optim=dict(learning_rate=2e-3, warmup=min(100, STEPS // 4)),
            train=dict(steps=STEPS, batch=64),
            mesh=dict(scan=True),  # equal blocks as a loop: compiles faster
            log=dict(every=max(STEPS // 10, 1)),
        )
    )  # fmt: skip
    WEIGHTS = "runs/notebook_photos"
    train(config, Path(WEIGHTS))
# %% [markdown]
# ## Hide and reconstruct
#
# Columns: original, what the encoder sees, what the decoder predicts, and the prediction with the visible patches
# pasted in. Move the sliders and run the cell again; another `DRAW` hides other patches.
# %%
# @title Mask ratio { run: "auto" }
MASK_RATIO = 0.75  # @param {type:"slider", min:0.1, max:0.95, step:0.05}
DRAW = 0  # @param {type:"slider", min:0, max:20, step:1}

from PIL import Image

from mae_jax.eval.reconstruct import draw_grid, reconstructor
from mae_jax.train.pictures import image_files, spread
from mae_jax.weights.opened import opened


def reconstruct(ratio, draw):
    """A picture with one row per image."""
    model = opened(WEIGHTS, [f"method.mask_ratio={ratio}"])  # the ratio is no weight: any fits
    batch = image_files(model.run, [Path(IMAGE)]) if IMAGE else spread(model.run, model.run.open("test"), 3)
    pictures = reconstructor(model.run.method, model.run.augment)(model.state["params"], model.rest, batch, draw)
    return draw_grid(pictures, model.run.colours, 3)


Image.fromarray(reconstruct(MASK_RATIO, DRAW))
# %% [markdown]
# ## Several ratios under each other
# %%
import numpy as np

Image.fromarray(np.concatenate([reconstruct(ratio, 0) for ratio in (0.5, 0.9)]))
# %% [markdown]
# ## Choose the mask yourself
#
# Any random draw of a method can be replaced by its name. A masking is a score per patch, and the patches of the
# lowest scores stay visible; here the upper half gets the high ones. The loss is the training loss itself, and its
# inner tensors are what is drawn.
# %%
import jax
import jax.numpy as jnp

from mae_jax.core.keys import Context

model = opened(WEIGHTS, ["method.mask_ratio=0.5"])
batch = spread(model.run, model.run.open("test"), 3)
rows, columns = model.run.method.grid
scores = jnp.tile(-jnp.arange(rows * columns) / (rows * columns), (3, 1))  # the lower, the more visible
prepared = model.run.augment({name: jnp.asarray(leaf) for name, leaf in batch.items()})
context = Context(jax.random.key(0), train=False, given={"mask": scores})
loss, aux = model.run.method.loss(model.state["params"], model.rest, prepared, context)
print(f"loss of the hidden half: {loss:.3f}")
Image.fromarray(draw_grid(model.run.method.pictures(aux.seen, prepared), model.run.colours, 3))
