"""What all tests share: eight CPU devices, strictness, shape-checked signatures, one compile cache."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# LLVM without optimisation compiles tiny models in half the time (conformance of two methods: 98 s against 205 s of
# processor time), and they run fast enough; XLA's older fusions in one piece halve it again (a step of `lut`: 1.6 s
# against 5.0 s). XLA refuses flags that it does not know, so later versions do without these two. Flags given from
# outside come last, and win.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
# BLAS threads that wait for each other are slower than none where several workers share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
CACHE = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", Path(__file__).parent.parent / ".jax_cache"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
# Indices of archives and the list of methods that ran go here, and not to the home of whoever tests.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".pytest_cache" / "home")

from jaxtyping import install_import_hook  # noqa: E402

# An int passes for a float, as in the type checker.
install_import_hook("mae_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def tiny():
    """A MAE small enough for every test: 16 x 16 x 3, patch 4, 16 tokens."""
    from mae_jax.methods.mae import MAE

    return MAE(
        image_size=16,
        patch=4,
        dim=32,
        depth=2,
        heads=4,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        norm_pix=True,
    )
