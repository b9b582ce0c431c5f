"""mae_jax: self-supervised pretraining by masking, on JAX."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae_jax.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str):
    """`mae_jax.load` and `mae_jax.Model`, imported when first asked for: `import mae_jax` stays light."""
    if name in ("Model", "load"):
        from mae_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'mae_jax' has no attribute '{name}'")
