# %% [markdown]
# # Pretrain on a folder of your images
#
# Any tree of image files will do. Where the first level of folders are classes, probes measure what was learnt on the
# way; without classes nothing needs to change but the probes. With no folder given, one is made of scikit-learn's
# handwritten digits.
# %% install
# %%
# @title Settings
FOLDER = ""  # @param {type:"string"}
# a directory of images; empty: one of digits is made
IMAGE_SIZE = 16  # @param {type:"integer"}
# what training sees, in pixels; four patches fit along a side
STEPS = 600  # @param {type:"integer"}
# %%
from pathlib import Path

from PIL import Image

if not FOLDER:
    from sklearn.datasets import load_digits

    FOLDER = "digits_folder"
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
        path = Path(FOLDER) / f"class_{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype("uint8")).save(path)
print(sum(path.is_file() for path in Path(FOLDER).rglob("*")), "files in", FOLDER)
# %% [markdown]
# ## A config
#
# A Python file with a docstring and a function. What it leaves out has a default; docs/configs.md (or
# mae_jax/schema.py) has every key.
# %%
text = f'''
"""MAE on my images."""

def get_config(arg=""):
    return dict(
        method=dict(name="mae", image_size={IMAGE_SIZE}, patch={IMAGE_SIZE // 4}, channels=3, dim=96, depth=3, heads=4,
                    decoder_dim=64, decoder_depth=2, decoder_heads=4, mask_ratio=0.75),
        data=dict(source="folder", path="{FOLDER}"),  # a tenth is kept for testing
        augment=dict(crop_scale=(0.6, 1.0), flip=False, mean=(0.3,) * 3, std=(0.37,) * 3),
        optim=dict(learning_rate=3e-3, warmup={STEPS // 10}),
        train=dict(steps={STEPS}, batch=128),
        mesh=dict(scan=True),  # equal blocks as a loop: compiles faster
        eval=dict(every={STEPS // 2}, online=("knn",), protocols=("linear", "knn")),
        log=dict(every={max(STEPS // 20, 1)}),
    )
'''
Path("my_config.py").write_text(text.lstrip())
# %% [markdown]
# ## Look at the data before anything else
#
# The same as `mae_jax data --config my_config.py` in a shell: what the model will see, what each stage of the input
# costs, and the mean and deviation to put into `augment`.
# %%
from mae_jax.commands.main import main

main(["data", "--config", "my_config.py", "--output", "sheet.png", "--seconds", "0.5"])
Image.open("sheet.png")
# %% [markdown]
# ## Train
#
# `mae_jax train --config my_config.py --workdir runs/mine`. Stop it whenever you like: the same call goes on. At the
# end there is a table: the pretrained encoder beside the same one untrained and beside raw pixels.
# %%
main(["train", "--config", "my_config.py", "--workdir", "runs/mine"])
# %% [markdown]
# ## Look at what came out
# %%
Image.open("runs/mine/curves.png")
# %%
Image.open(sorted(Path("runs/mine/pictures").glob("*.png"))[-1])
# %% [markdown]
# ## Next
#
# * A larger model on a GPU: `patch=16, dim=384, depth=12, heads=6` at `image_size=224`, `train.precision="bfloat16"`,
#   many more steps.
# * Slow input: `mae_jax prepare FOLDER DST --short-side 256` writes the images once at the size that training needs
#   (docs/prepare.md).
# * What the encoder is worth: the notebook probe_and_finetune.
