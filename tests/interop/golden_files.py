"""Golden files for tests: read raw, changed, written again."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
MAE = sorted((GOLDEN / "mae").glob("*.npz"))


def raw(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(meta, arrays by their full names) of tests/golden/mae/NAME.npz."""
    with np.load(GOLDEN / "mae" / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def write(path: Path, meta: dict, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
    return path
