"""What `mae_jax compile` says of four steps on TPU v5e, as text: a change of memory or collectives is seen in review.

    python tests/ahead/golden_compile.py [NAME ...]

writes tests/golden/compile/ (about five minutes each on the shared 2-core machine); test_golden_compile.py compares,
where libtpu is of the version that a file names.
"""

import contextlib
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "tests" / "golden" / "compile"
DATA = ("--config.mesh.scan=True",)
# The settings of l16 are those that --fit finds for its slice; h14_fsdp splits over all devices, ring by ring.
CASES: dict[str, tuple[str, ...]] = {
    "b16": ("configs/mae/vit_b16_imagenet.py", "v5e:4x4", *DATA, "--config.mesh.remat=dots"),
    "l16": ("configs/mae/vit_l16_imagenet.py", "v5e:4x8", *DATA, "--config.mesh.remat=dots", "--config.mesh.fsdp=32"),
    "h14": ("configs/mae/vit_h14_imagenet.py", "v5e:8x8", *DATA, "--config.mesh.remat=full"),
    "h14_fsdp": (
        "configs/mae/vit_h14_imagenet.py", "v5e:8x8", *DATA, "--config.mesh.remat=dots", "--config.mesh.fsdp=64",
    ),
}  # fmt: skip


def command(name: str) -> list[str]:
    """The command of a case, without `mae_jax`."""
    config, topology, *settings = CASES[name]
    return ["compile", "--config", config, "--topology", topology, *settings]


def made(name: str) -> str:
    """The text of a case: versions, the command, what it prints."""
    from mae_jax.commands.main import main

    said = io.StringIO()
    os.chdir(ROOT)
    with contextlib.redirect_stdout(said):
        status = main(command(name))
    head = f"# libtpu {version('libtpu')}, jax {version('jax')}\n$ mae_jax {' '.join(command(name))}\n"
    return f"{head}{said.getvalue()}exit status {status}\n"


if __name__ == "__main__":
    TEXTS.mkdir(parents=True, exist_ok=True)
    for case in sys.argv[1:] or CASES:
        (TEXTS / f"{case}.txt").write_text(made(case))
        print(TEXTS / f"{case}.txt", flush=True)
