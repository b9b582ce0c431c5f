"""benchmarks/soak.py, short: a run under six random faults ends as one that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_six_faults_and_nothing_lost(tmp_path):
    command = [sys.executable, "benchmarks/soak.py", "--faults=6", "--steps=180", "--seed=5", "--fresh=3"]
    command += [f"--logs={tmp_path / 'logs'}", f"--json={tmp_path / 'soak.json'}"]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "said", "w") as said:
        soak = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:
            status = soak.wait(timeout=1200)
        finally:
            if soak.poll() is None:
                soak.send_signal(signal.SIGINT)  # so that it ends what it started
                soak.wait(timeout=60)
    assert status == 0, (tmp_path / "said").read_text()[-4000:]
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["faults"] == 6 == sum(report["recovered"].values()) and report["lost"] == []
    assert report["curves_equal"] and report["states_equal"] and report["logged"] == 180
    assert len(report["left_behind"]) <= 1
