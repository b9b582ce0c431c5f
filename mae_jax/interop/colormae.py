"""carlosh93/ColorMAE: the masks; the network is MAE as mmpretrain builds it (interop/vit_layouts.py: mmpretrain)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop.golden import Golden
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared
from mae_jax.methods.colormae import ColorMAE
from mae_jax.nets.vit import sizes


def method_of(config: Mapping[str, Any]) -> tuple[ColorMAE, int]:
    """(our method on images of one pixel per patch, the batch) from the arguments of a file.

    The colour is a label: the patterns are inputs.
    """
    known = {"batch": REQUIRED, "patterns": REQUIRED, "size": REQUIRED, "window": 14, "mask_ratio": 0.75}
    o = options(config, known, what="ColorMasking", inert=("color", "colour", "noise_path", "path"))
    window: Any
    size: Any
    window, size = (sizes(x if isinstance(x, int) else tuple(x)) for x in (o["window"], o["size"]))
    method = ColorMAE(
        image_size=window, patch=1, dim=4, heads=1, decoder_dim=4, decoder_heads=1, mask_ratio=float(o["mask_ratio"]),
        patterns=o["patterns"], pattern_size=size,
    )  # fmt: skip
    method.check()
    return method, o["batch"]


def prepare(golden: Golden) -> Prepared:
    """`ColorMAE.mask` under the stored patterns, with each pass's crop and flips in place of its draws."""
    method, b = method_of(golden.config)
    patterns = np.asarray(golden.input("pattern"), np.float32)
    if patterns.shape != (method.patterns, *sizes(method.pattern_size)):
        said = (method.patterns, *sizes(method.pattern_size))
        raise UserError(f"'in/pattern' is {patterns.shape}, but the arguments (patterns, size) say {said}.")
    of_pass = np.arange(b) // method.patterns
    given = {
        name: jnp.asarray(golden.input(theirs)[of_pass]) for name, theirs in (("corner", "crop"), ("flip", "flip"))
    }

    def masks(patterns: jax.Array) -> dict[str, Any]:
        rest: Any = {"stats": {}, "ema": {}, "frozen": {"green": {"patterns": patterns}}}
        context = lambda: Context(jax.random.key(0), given=given)
        mask = method.mask(rest, context(), b)
        return {
            "windows": method.noise(rest, context(), b),
            "mask": mask.hidden.astype(jnp.float32),
            "ids_restore": mask.restore_ids,
            "ids_keep": mask.keep_ids,
        }

    return Prepared(lambda params: jax.jit(masks)(jnp.asarray(patterns)))


CASES = {"models.utils.masking_generator.ColorMasking": prepare}
