"""Keep a small checkpoint of the present format, which every later version must go on from.

    python tests/train/make_golden_checkpoint.py

writes tests/golden/checkpoints/format_N/: run/ (config.json, metrics.jsonl and the checkpoint of step 2) and
expected.json (the losses of the two steps after it, and the hash of every array by numpy, apart from the checkpoint's
own). Run it once, when a format is released, and never again for that format.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import metrics, tiny  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
METHOD = dict(
    name="mae", image_size=8, patch=4, channels=1, dim=4, depth=1, heads=1, decoder_dim=4, decoder_depth=1,
    decoder_heads=1, mask_ratio=0.5,
)  # fmt: skip
SETTINGS = (
    "optim.name=sgd", "optim.momentum=0.0", "optim.warmup=0", "optim.schedule=constant", "train.batch=8",
    "checkpoint.every=2", "log.every=1", "log.norms=none", "log.tensorboard=False", "log.pictures=1",
)  # fmt: skip


def main() -> None:
    from mae_jax.core.hashing import array_hash
    from mae_jax.core.tree import flatten
    from mae_jax.train.checkpoint import restore_arrays
    from mae_jax.train.checkpoint_meta import FORMAT
    from mae_jax.train.loop import train

    target = GOLDEN / f"format_{FORMAT}"
    if target.exists():
        raise SystemExit(f"{target} exists: a released format does not change. Raise FORMAT first.")
    with tempfile.TemporaryDirectory() as folder:
        run, longer = Path(folder) / "run", Path(folder) / "longer"
        assert train(tiny("train.steps=2", *SETTINGS, method=METHOD), run) == 0
        shutil.copytree(run, longer)
        arrays = flatten(restore_arrays(run, 2))
        assert train(tiny("train.steps=4", *SETTINGS, method=METHOD), longer) == 0
        losses = {line["step"]: line["loss"] for line in metrics(longer) if "loss" in line}
        expected = {
            "losses": {step: losses[step] for step in (3, 4)},
            "hashes": {path: array_hash(array) for path, array in arrays.items()},
        }
        for name in ("config.json", "metrics.jsonl", "checkpoints/2"):
            (target / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, target / "run" / name)
        (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
