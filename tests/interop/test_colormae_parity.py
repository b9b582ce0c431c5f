"""ColorMAE's masks against the authors' code, integers to the bit."""

import pytest
from golden_files import GOLDEN

from mae_jax.interop import parity
from mae_jax.interop.golden import read

FILES = sorted((GOLDEN / "colormae").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} == set(golden.outputs) and len(FILES) == 2
    for line in lines:
        assert line.ok and line.max_abs <= (2e-7 if line.output == "windows" else 0), line
