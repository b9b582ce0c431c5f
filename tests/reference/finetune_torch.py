"""Ten fine-tuning steps of a tiny classifier in plain torch: what our fine-tuning is held to.

Written from the recipe alone, as mae_torch.py, whose network and schedule it uses: layer decay as one group of
AdamW per parameter, smoothed labels, mixup of the reversed batch by a given share. Torch is needed only to record the
file again:

    python tests/reference/finetune_torch.py tests/golden/mae_finetune10.npz

outputs: as mae_torch.py's file.
"""

import json
import math
import sys

import numpy as np
import torch
from mae_torch import Classifier, learning_rate, rule_weight
from torch.nn import functional as F

CONFIG = {
    "img_size": 16, "patch_size": 4, "in_chans": 3, "num_classes": 5, "embed_dim": 32, "depth": 3, "num_heads": 4,
    "mlp_ratio": 4.0, "norm_eps": 1e-6, "qkv_bias": True, "global_pool": True,
}  # fmt: skip
RECIPE = {
    "steps": 10, "batch": 6, "learning_rate": 4e-3, "warmup_steps": 3, "min_learning_rate": 1e-5, "weight_decay": 0.05,
    "layer_decay": 0.6, "smoothing": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "mean": 0.5, "std": 0.5,
}  # fmt: skip
SEED = 30
WHOLE = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "fc_norm.weight", "head.bias")


def scale(name, depth, decay):
    """decay^(layers above): 0 for what comes before the blocks, i + 1 for block i, depth + 1 for what follows."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        layer = 0
    elif name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = depth + 1
    return decay ** (depth + 1 - layer)


def main(path):
    torch.set_num_threads(1)
    c, r = CONFIG, RECIPE
    model = Classifier(c)
    start = {name: rule_weight(name, tuple(p.shape), SEED) for name, p in model.named_parameters()}
    model.load_state_dict(start)
    groups = [
        {
            "params": [p],
            "scale": scale(name, c["depth"], r["layer_decay"]),
            "weight_decay": 0.0 if p.ndim == 1 or name in ("cls_token", "pos_embed") else r["weight_decay"],
        }
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(r["beta1"], r["beta2"]), eps=r["eps"])
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (r["steps"], r["batch"], c["in_chans"], c["img_size"], c["img_size"])).astype(
        np.uint8
    )
    labels = rng.integers(0, c["num_classes"], (r["steps"], r["batch"]))
    shares = rng.beta(0.8, 0.8, r["steps"]).astype(np.float32)
    losses, rates, norms = [], [], []
    for step in range(r["steps"]):
        rates.append(learning_rate(step, r))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1] * group["scale"]
        pixels = (torch.from_numpy(images[step]).float() / 255 - r["mean"]) / r["std"]
        lam = float(shares[step])
        pixels = lam * pixels + (1 - lam) * pixels.flip(0)
        smooth = torch.full((r["batch"], c["num_classes"]), r["smoothing"] / c["num_classes"])
        smooth[torch.arange(r["batch"]), torch.from_numpy(labels[step])] += 1 - r["smoothing"]
        targets = lam * smooth + (1 - lam) * smooth.flip(0)
        _, seen = model(pixels, torch.from_numpy(labels[step]))
        loss = -(targets * F.log_softmax(seen["logits"], dim=-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters())))
        optimizer.step()
        losses.append(loss.item())
    final = {name: p.detach() for name, p in model.named_parameters()}
    outputs = {"loss": np.float32(losses), "lr": np.float64(rates), "gradient_norm": np.float64(norms)}
    outputs |= {f"moved/{name}": np.float64((p - start[name]).double().norm().item()) for name, p in final.items()}
    outputs |= {f"final/{name}": final[name].numpy() for name in WHOLE}
    meta = {
        "system": "mae", "class": "10 fine-tuning steps", "source": "tests/reference/finetune_torch.py", "commit": "",
        "config": CONFIG | {"recipe": RECIPE}, "seed": SEED, "fixed": [], "notes": f"torch {torch.__version__}, CPU",
        "weights": {name: list(p.shape) for name, p in start.items()},
    }  # fmt: skip
    arrays = {"meta": np.array(json.dumps(meta, sort_keys=True)), "in/imgs": images, "in/labels": labels,
              "in/shares": shares}  # fmt: skip
    np.savez_compressed(path, **arrays, **{f"out/{name}": value for name, value in outputs.items()})
    print("loss", " ".join(f"{x:.4f}" for x in losses))


if __name__ == "__main__":
    main(sys.argv[1])
