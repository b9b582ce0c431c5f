"""Masks under each colour of noise, as a picture: docs/images/colormae_masks.png.

python benchmarks/colour_masks.py [FILE]
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mae_jax import teachers
from mae_jax.core.keys import Context
from mae_jax.eval.pictures import grid
from mae_jax.methods.colormae import ColorMAE

FILE = Path(__file__).parents[1] / "docs" / "images" / "colormae_masks.png"
COLOURS = ("red", "green", "white", "blue", "purple")
SHOWN, PIXELS = 6, 6  # images of a pass, pixels per patch


def masks(colour: Any) -> np.ndarray:
    """[SHOWN, 14 PIXELS, 14 PIXELS, 3]: what is kept is white."""
    method = ColorMAE(colour=colour)
    frozen = {name: jax.tree.map(jnp.asarray, teachers.load(spec)[0]) for name, spec in method.frozen().items()}
    rest: Any = {"stats": {}, "ema": {}, "frozen": frozen}
    hidden = np.asarray(method.mask(rest, Context(jax.random.key(0)), SHOWN).hidden).reshape(SHOWN, *method.grid)
    cells = np.kron(~hidden, np.ones((1, PIXELS, PIXELS), bool))
    return np.repeat(np.where(cells, 255, 40).astype(np.uint8)[..., None], 3, axis=-1)


def main() -> None:
    """Write the picture."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    drawn = {colour: masks(colour) for colour in COLOURS}
    rows = [[drawn[colour][i] for colour in COLOURS] for i in range(SHOWN)]
    Image.fromarray(grid(rows, COLOURS)).save(file)


if __name__ == "__main__":
    main()
