"""The peer: the same pretraining step with Hugging Face transformers' ViTMAEForPreTraining, on PyTorch.

Same size, batch, microbatches, precision and AdamW as our config. Where the two could differ, the choice favours the
peer: its images lie on the device normalised, as float32, channels first (we normalise uint8 inside the step), AdamW
is the fused one, attention is scaled_dot_product_attention, and it reports neither gradient norm nor learning rate.
torch is imported after jax has started (README.md here says why).
"""

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.schema import Config

MODES = ("eager", "compile")


class Peer:
    """One training run of ViTMAE: `advance` starts a step, `wait` blocks until all steps are done.

    Attributes:
      name: "hf eager" or "hf compile".
      parameters: number of trainable numbers.
      settings: what a reader must know to repeat it.
    """

    def __init__(self, method: Any, config: Config, images: np.ndarray, *, mode: str, device: str, tf32: bool):
        """Make model and optimizer, and lay the images on the device.

        Args:
          method: our MAE, whose fields give the sizes.
          images: [b, h, w, c] float32, normalised.
          mode: one of MODES.
          device: "cpu" or "cuda".
          tf32: whether float32 matmuls on a GPU may use TF32, as XLA's do by default.
        """
        import torch
        import transformers

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"jax runs on a GPU but this PyTorch ({torch.__version__}) sees none, so there is nothing fair to "
                "compare: install a CUDA build of PyTorch, or set JAX_PLATFORMS=cpu to compare on the CPU."
            )
        if device == "cuda":
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
        self.name = f"hf {mode}"
        self._torch, self._device, self._mode, self._config = torch, device, mode, config
        self._sizes = transformers.ViTMAEConfig(**model_sizes(method), attn_implementation="sdpa")
        pixels = torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device)
        self._parts = pixels.chunk(config.train.microbatches)
        # Eager autocast keeps a weight's bfloat16 copy for the length of the context, so that each is cast once.
        self._bfloat16 = config.train.precision == "bfloat16"
        self._last: Any = None
        self._begin()
        self.parameters = sum(p.numel() for p in self._weights)
        self.settings = {
            "attention": self._sizes._attn_implementation, "optimizer": "AdamW(fused=True)", "tf32": tf32,
            "precision": "autocast bfloat16, float32 weights" if self._bfloat16 else "float32",
            "threads": torch.get_num_threads(), "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        }  # fmt: skip

    def _begin(self) -> None:
        """Make weights and optimizer."""
        import transformers

        self._torch.manual_seed(self._config.train.seed)
        model = transformers.ViTMAEForPreTraining(self._sizes).to(self._device).train()
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = adamw(self._torch, self._weights, self._config)
        self._loss: Callable | None = self._forward(self._torch.compile(model) if self._mode == "compile" else model)

    def release(self) -> None:
        """Give back weights, gradients and optimizer; the next step starts from the first again."""
        self._weights, self._optimizer, self._loss, self._last = [], None, None, None

    def _forward(self, model: Any) -> Callable:
        def loss(pixels: Any) -> Any:
            with self._torch.autocast(self._device, dtype=self._torch.bfloat16, enabled=self._bfloat16):
                return model(pixel_values=pixels).loss

        return loss

    def advance(self) -> None:
        """Start one step: gradient over the microbatches, clipping where the config clips, AdamW."""
        if self._loss is None:
            self._begin()
        self._optimizer.zero_grad(set_to_none=True)
        for part in self._parts:
            self._last = self._loss(part)
            (self._last / len(self._parts)).backward()
        if self._config.optim.clip:
            self._torch.nn.utils.clip_grad_norm_(self._weights, self._config.optim.clip)
        self._optimizer.step()

    def wait(self) -> float:
        """Block until the device is done; the last (micro)batch's loss."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return self._last.item()

    def memory_gb(self) -> float | None:
        """Most memory that tensors have taken on the GPU, in 1e9 bytes."""
        return self._torch.cuda.max_memory_allocated() / 1e9 if self._device == "cuda" else None


def peers(run: Any, images: np.ndarray, mode: str) -> list[Peer]:
    """ViTMAE in the wanted modes ("both": all), on the kind of device that jax uses.

    Args:
      run: our mae_jax.train.build.Run.
      images: [b, h, w, c] uint8.
    """
    import jax

    kind = run.mesh.devices.flat[0].platform
    if kind not in ("cpu", "gpu"):
        raise UserError(f"--peer hf runs on CPUs and NVIDIA GPUs, and jax is on '{kind}'; leave --peer out.")
    normalised = np.asarray(run.augment({"image": jax.numpy.asarray(images)})["image"])
    tf32 = jax.config.jax_default_matmul_precision in (None, "default", "fastest", "tensorfloat32", "high")
    device = {"cpu": "cpu", "gpu": "cuda"}[kind]
    modes = MODES if mode == "both" else (mode,)
    return [Peer(run.method, run.config, normalised, mode=m, device=device, tf32=tf32) for m in modes]


def ratios(results: dict[str, dict[str, Any]], ours: str) -> dict[str, dict[str, Any]]:
    """{peer: {"rounds": our speed over the peer's in each, "median"}}, from "rounds_s": above 1 we are faster."""
    seconds = {name: r["rounds_s"] for name, r in results.items()}
    own = seconds.pop(ours)
    each = {name: [theirs / our for our, theirs in zip(own, s)] for name, s in seconds.items()}
    return {name: {"rounds": r, "median": statistics.median(r)} for name, r in each.items()}


def check(config: Config) -> None:
    """Raise UserError where ViTMAE has no equal of this config, or is not installed. Imports neither torch nor jax."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--peer hf needs {' and '.join(missing)}: pip install 'mae_jax[compare]'.")
    fields = config.method
    wrong = None
    if fields["name"] != "mae":
        wrong = f"method.name={fields['name']!r}, and ViTMAE is plain MAE ('mae')"
    elif not fields["class_token"]:
        wrong = "method.class_token=False, and ViTMAE always has one"
    elif not all(square(fields[key]) for key in ("image_size", "patch")):
        wrong = f"method.image_size={fields['image_size']}, method.patch={fields['patch']}, and ViTMAE's are square"
    elif config.optim.name != "adamw":
        wrong = f"optim.name={config.optim.name!r}, and the peer trains with 'adamw'"
    elif config.optim.average:
        wrong = f"optim.average={config.optim.average}, and the peer keeps no running average (0)"
    elif config.mesh.remat != "none":
        wrong = f"mesh.remat={config.mesh.remat!r}, and the peer computes nothing twice ('none')"
    if wrong:
        raise UserError(f"--peer hf cannot be held against this config: it has {wrong}. Override it with --config.")


def square(size: Any) -> bool:
    """Whether a size is one number, or the same one twice."""
    return isinstance(size, int) or size[0] == size[1]


def model_sizes(method: Any) -> dict[str, Any]:
    """ViTMAEConfig's arguments for a model of our method's size."""
    one = lambda size: size if isinstance(size, int) else size[0]
    return {
        "image_size": one(method.image_size), "patch_size": one(method.patch), "num_channels": method.channels,
        "hidden_size": method.dim, "num_hidden_layers": method.depth, "num_attention_heads": method.heads,
        "intermediate_size": int(method.dim * method.mlp_ratio), "decoder_hidden_size": method.decoder_dim,
        "decoder_num_hidden_layers": method.decoder_depth, "decoder_num_attention_heads": method.decoder_heads,
        "decoder_intermediate_size": int(method.decoder_dim * method.mlp_ratio), "mask_ratio": method.mask_ratio,
        "norm_pix_loss": method.norm_pix, "layer_norm_eps": method.norm_eps, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def adamw(torch: Any, weights: list, config: Config) -> Any:
    """AdamW in MAE's two groups: vectors do not decay, all else does. The learning rate stays at its peak."""
    o = config.optim
    groups = [
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": o.weight_decay},
    ]
    rate = o.learning_rate * config.train.batch / 256
    return torch.optim.AdamW(groups, lr=rate, betas=(o.b1, o.b2), eps=o.eps, fused=True)
