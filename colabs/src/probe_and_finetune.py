# %% [markdown]
# # Probe and fine-tune
#
# What is a pretrained encoder worth with few labels? First it stays frozen (probes), then it is trained on
# (fine-tuning), beside the same network from random weights under the same budget. With no run of your own, a small
# one on digits is trained first.
# %% install
# %%
# @title Settings
WORKDIR = ""  # @param {type:"string"}
# the folder of a run on labelled images; empty: train one here
STEPS = 600  # @param {type:"integer"}
# of pretraining, where WORKDIR is empty
LABELS_PER_CLASS = 5  # @param {type:"slider", min:1, max:50, step:1}
FINETUNE_STEPS = 200  # @param {type:"integer"}
# %%
from pathlib import Path

from mae_jax.config import resolve
from mae_jax.train.loop import train

if not WORKDIR:
    config = resolve(
        dict(
            method=dict(
                name="mae", image_size=8, patch=2, channels=1, dim=96, depth=4, heads=4, decoder_dim=48,
                decoder_depth=4, decoder_heads=4, mask_ratio=0.625,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=3e-3, warmup=min(100, STEPS // 4)),
            train=dict(steps=STEPS, batch=256),
            mesh=dict(scan=True),  # equal blocks as a loop: compiles faster
            log=dict(every=max(STEPS // 10, 1)),
        )
    )  # fmt: skip
    WORKDIR = "runs/notebook_digits"
    train(config, Path(WORKDIR))
# %% [markdown]
# ## Probes: the encoder stays as it is
#
# `mae_jax evaluate --workdir ...`. Each protocol fits to the training split and is scored on the test split; the
# columns beside are the same encoder at random weights, and raw pixels. docs/evaluation.md says what each protocol
# does.
# %%
from mae_jax.commands.main import main

main(["evaluate", "--workdir", WORKDIR, "--protocol", "linear,knn,five_shot"])
# %% [markdown]
# ## Fine-tuning with a few labels, and from scratch
#
# `mae_jax finetune --workdir ...` trains the encoder and a linear head on LABELS_PER_CLASS images of each class.
# `--scratch` starts the same network from random weights. docs/finetune.md has the recipes; on images of this size
# nothing is mixed, erased or turned.
# %%
budget = [f"--config.transfer.labels_per_class={LABELS_PER_CLASS}", f"--config.transfer.steps={FINETUNE_STEPS}"]
main(["finetune", "--workdir", WORKDIR, "--out", "runs/notebook_tuned", *budget])
# %%
main(["finetune", "--workdir", WORKDIR, "--scratch", "--out", "runs/notebook_scratch", *budget])
# %%
import json

for title, run in (("from pretrained weights", "tuned"), ("from scratch", "scratch")):
    print(f"{title}: {json.loads(Path(f'runs/notebook_{run}/results.json').read_text())}")
