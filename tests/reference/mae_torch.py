"""Twenty training steps of a tiny MAE in plain torch: the reference that our training loop is held to.

Written from the recipe alone (papers' sheet) and independent of mae_jax: model, masking, loss, AdamW with its
two groups, warmup and cosine per step. Torch is needed only to record the file again:

    python tests/reference/mae_torch.py tests/golden/mae_train20.npz

The file has the format of the other golden files; its initial weights follow the golden weight rule. Images
are uint8, normalised as (x / 255 - 0.5) / 0.5. outputs: loss, lr and gradient norm at each step; after the
last step the norm of every tensor (norm/<name>), its distance from the start (moved/<name>) and some whole
tensors (final/<name>).
"""

import json
import math
import sys
import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "img_size": 16, "patch_size": 4, "in_chans": 3, "embed_dim": 32, "depth": 2, "num_heads": 4,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mlp_ratio": 4.0,
    "norm_pix_loss": True, "norm_eps": 1e-6, "mask_ratio": 0.75,
}  # fmt: skip
RECIPE = {
    "steps": 20, "batch": 4, "learning_rate": 4e-3, "warmup_steps": 5, "min_learning_rate": 0.0, "weight_decay": 0.05,
    "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "mean": 0.5, "std": 0.5,
}  # fmt: skip
SEED = 20
WHOLE = (
    "cls_token", "mask_token", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "blocks.0.norm1.weight",
    "decoder_pred.bias", "decoder_norm.bias",
)  # fmt: skip


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (part.view(b, n, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(d / self.heads), dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, ratio, eps):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MAE(nn.Module):
    """Parameters carry the official names, so that the weight rule and name map serve this model too."""

    def __init__(self, c):
        super().__init__()
        d, e, p = c["embed_dim"], c["decoder_embed_dim"], pair(c["patch_size"])
        self.grid, self.patch = grid(c), p
        self.keep = int(self.grid[0] * self.grid[1] * (1 - c["mask_ratio"]))
        self.normalise = c["norm_pix_loss"]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(c["in_chans"], d, p, stride=p)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.blocks = nn.ModuleList(Block(d, c["num_heads"], c["mlp_ratio"], c["norm_eps"]) for _ in range(c["depth"]))
        self.norm = nn.LayerNorm(d, eps=c["norm_eps"])
        self.decoder_embed = nn.Linear(d, e)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, e))
        self.decoder_blocks = nn.ModuleList(
            Block(e, c["decoder_num_heads"], c["mlp_ratio"], c["norm_eps"]) for _ in range(c["decoder_depth"])
        )
        self.decoder_norm = nn.LayerNorm(e, eps=c["norm_eps"])
        self.decoder_pred = nn.Linear(e, p[0] * p[1] * c["in_chans"])

    def forward(self, image, noise):
        """image [b, c, h, w], noise [b, n] -> scalar loss, and the inner tensors by their golden names."""
        b, n = noise.shape
        tokens = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        tokens = tokens + position_table(tokens.shape[-1], *self.grid)
        order = torch.argsort(noise, dim=1)
        visible = torch.stack([tokens[i, order[i, : self.keep]] for i in range(b)])
        x = torch.cat([self.cls_token.expand(b, -1, -1), visible], dim=1)
        for block in self.blocks:
            x = block(x)
        latent = self.norm(x)
        x = self.decoder_embed(latent)
        full = self.mask_token.repeat(b, n, 1)
        hidden = torch.ones(b, n)
        rows = torch.arange(b)[:, None]
        full = full.index_put((rows, order[:, : self.keep]), x[:, 1:])
        hidden[rows, order[:, : self.keep]] = 0
        full = full + position_table(full.shape[-1], *self.grid)
        x = torch.cat([x[:, :1], full], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        # unfold gives (channel, row, column) inside a patch; the target wants channel fastest.
        target = F.unfold(image, self.patch, stride=self.patch).transpose(1, 2)
        target = patches = target.reshape(b, n, image.shape[1], -1).transpose(2, 3).reshape(b, n, -1)
        if self.normalise:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = ((pred - target) ** 2).mean(-1)
        loss = (error * hidden).sum() / hidden.sum()
        restore = torch.argsort(order, dim=1)
        seen = {
            "latent": latent,
            "mask": hidden,
            "ids_restore": restore,
            "pred": pred,
            "target_patches": patches[:1],
            "loss": loss,
        }
        return loss, seen


class Classifier(nn.Module):
    """The authors' fine-tuning network: trainable positions, mean pooling with its own norm, or the class
    token.
    """

    def __init__(self, c):
        super().__init__()
        d, p = c["embed_dim"], pair(c["patch_size"])
        rows, columns = grid(c)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(c["in_chans"], d, p, stride=p)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, d))
        self.blocks = nn.ModuleList(Block(d, c["num_heads"], c["mlp_ratio"], c["norm_eps"]) for _ in range(c["depth"]))
        if not c["qkv_bias"]:
            for block in self.blocks:
                block.attn.qkv.bias = None
        self.pool = c["global_pool"]
        setattr(self, "fc_norm" if self.pool else "norm", nn.LayerNorm(d, eps=c["norm_eps"]))
        self.head = nn.Linear(d, c["num_classes"])

    def forward(self, image, labels):
        """image [b, c, h, w], labels [b] -> scalar loss, and the inner tensors by their golden names."""
        tokens = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), tokens], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        features = self.fc_norm(x[:, 1:].mean(1)) if self.pool else self.norm(x)[:, 0]
        logits = self.head(features)
        loss = F.cross_entropy(logits, labels)
        return loss, {"features": features, "logits": logits, "loss": loss}


def pair(value):
    """A size given once, or as (rows, columns)."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def grid(c):
    """(rows, columns) of patches."""
    return tuple(size // patch for size, patch in zip(pair(c["img_size"]), pair(c["patch_size"])))


def position_table(dim, rows, columns):
    """[rows * columns, dim]: [sin x, cos x, sin y, cos y] with x the column and y the row."""
    table = np.zeros((rows, columns, dim))
    for y in range(rows):
        for x in range(columns):
            angle = {"x": [], "y": []}
            for k in range(dim // 4):
                frequency = 1 / 10000 ** (k / (dim / 4))
                angle["x"].append(x * frequency)
                angle["y"].append(y * frequency)
            table[y, x] = np.concatenate(
                [np.sin(angle["x"]), np.cos(angle["x"]), np.sin(angle["y"]), np.cos(angle["y"])]
            )
    return torch.from_numpy(table.reshape(rows * columns, dim)).float()


def rule_weight(name, shape, seed):
    """The golden weight rule: 0.1 N(0, 1), about 1 for a norm's scale."""
    normal = np.random.default_rng([zlib.crc32(name.encode()), seed]).standard_normal(shape).astype(np.float32)
    scale = np.float32(0.1) * normal
    return torch.from_numpy(1 + scale if name.endswith("weight") and len(shape) == 1 else scale)


def learning_rate(step, r):
    """Linear from 0 over the warmup, then half a cosine down to the minimum, at the start of `step`."""
    if step < r["warmup_steps"]:
        return r["learning_rate"] * step / r["warmup_steps"]
    done = (step - r["warmup_steps"]) / (r["steps"] - r["warmup_steps"])
    span = r["learning_rate"] - r["min_learning_rate"]
    return r["min_learning_rate"] + span * 0.5 * (1 + math.cos(math.pi * done))


def batches(r, c):
    """(images uint8 [steps, b, c, h, w], noise float32 [steps, b, n]): blurred noise, so that there is
    something to learn.
    """
    rng = np.random.default_rng(SEED)
    size, n = c["img_size"], (c["img_size"] // c["patch_size"]) ** 2
    coarse = rng.uniform(0, 200, (r["steps"], r["batch"], c["in_chans"], size // 4, size // 4))
    fine = coarse.repeat(4, axis=-1).repeat(4, axis=-2) + rng.uniform(
        0, 55, (r["steps"], r["batch"], c["in_chans"], size, size)
    )
    return fine.astype(np.uint8), rng.random((r["steps"], r["batch"], n), dtype=np.float32)


def main(path):
    torch.set_num_threads(1)
    model = MAE(CONFIG)
    start = {name: rule_weight(name, tuple(p.shape), SEED) for name, p in model.named_parameters()}
    model.load_state_dict(start)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": RECIPE["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(RECIPE["beta1"], RECIPE["beta2"]), eps=RECIPE["eps"])
    images, noise = batches(RECIPE, CONFIG)
    losses, rates, norms = [], [], []
    for step in range(RECIPE["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, RECIPE)
        pixels = (torch.from_numpy(images[step]).float() / 255 - RECIPE["mean"]) / RECIPE["std"]
        loss, _ = model(pixels, torch.from_numpy(noise[step]))
        optimizer.zero_grad()
        loss.backward()
        norms.append(math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters())))
        optimizer.step()
        losses.append(loss.item())
        rates.append(learning_rate(step, RECIPE))
    final = {name: p.detach() for name, p in model.named_parameters()}
    outputs = {"loss": np.float32(losses), "lr": np.float64(rates), "gradient_norm": np.float64(norms)}
    outputs |= {f"norm/{name}": np.float64(p.double().norm().item()) for name, p in final.items()}
    outputs |= {f"moved/{name}": np.float64((p - start[name]).double().norm().item()) for name, p in final.items()}
    outputs |= {f"final/{name}": final[name].numpy() for name in WHOLE}
    meta = {
        "system": "mae", "class": "20 training steps", "source": "tests/reference/mae_torch.py", "commit": "",
        "config": CONFIG | {"recipe": RECIPE}, "seed": SEED, "fixed": [],
        "notes": f"torch {torch.__version__}, CPU",
        "weights": {name: list(p.shape) for name, p in start.items()},
    }  # fmt: skip
    arrays = {"meta": np.array(json.dumps(meta, sort_keys=True)), "in/imgs": images, "in/noise": noise}
    np.savez_compressed(path, **arrays, **{f"out/{name}": value for name, value in outputs.items()})
    print("loss", " ".join(f"{x:.4f}" for x in losses))


if __name__ == "__main__":
    main(sys.argv[1])
