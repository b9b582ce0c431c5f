"""benchmarks/dual_masking.py: its formula against the sheet's counts of tokens."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "dual_masking.py"


def test_decoder_masking_halves_the_decoder(tmp_path, capsys):
    """Sheet: ViT-B at 224 px: 160 visible tokens, 1408 hidden, 784 asked for; ViT-g: 2048 tokens, 1024 asked for."""
    spec = importlib.util.spec_from_file_location("dual_masking", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["formula"]

    def decoder(asked, visible, width, dim, out):
        n = visible + asked
        return 3e-9 * (2 * visible * width * dim + 4 * (24 * n * dim**2 + 4 * n**2 * dim) + 2 * asked * dim * out)

    b = found["ViT-B/16"]
    assert b["decoder_masked"] == pytest.approx(decoder(784, 160, 768, 384, 1536), rel=1e-6)
    assert b["decoder_full"] == pytest.approx(decoder(1408, 160, 768, 384, 1536), rel=1e-6)
    assert 1.8 < found["ViT-g/14"]["decoder_ratio"] < 2.1 and "ViT-g/14" in capsys.readouterr().out
