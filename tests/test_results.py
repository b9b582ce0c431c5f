"""RESULTS.md is what the records say, and every method has one."""

import importlib.util
import json
from pathlib import Path

import pytest

from mae_jax import methods

ROOT = Path(__file__).parents[1]
RECORDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs" / "results").glob("*.json")}

spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
assert spec is not None and spec.loader is not None
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)


def test_the_table_is_up_to_date():
    assert (ROOT / "RESULTS.md").read_text() == results.table(), "run `python benchmarks/results.py`"


def test_every_method_has_a_record():
    assert set(RECORDS) == set(methods.names())


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_whole(name):
    record = RECORDS[name]
    assert record["method"] == name and len(record["tiny"]["seeds"]) == 3 and record["tiny"]["bar"]
    assert (ROOT / record["tiny"]["config"]).is_file()
    assert record["parity"]["files"] == len(list((ROOT / "tests" / "golden" / name).glob("*.npz")))
    assert record["parity"]["worst"] < 1e-4
    assert all(p["source"] and p["number"] for p in record["published"])


def test_a_run_s_number_is_read(tmp_path):
    (tmp_path / "results.json").write_text('{"linear": {"pretrained": 90.5, "random": 80.0}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "accuracy": 0.1}\n{"step": 2, "accuracy": 0.7}\n{"step": 3}\n')
    gap = {"file": "results.json", "key": "linear/pretrained", "minus": "linear/random"}
    assert results.number(tmp_path, gap) == 10.5
    assert results.number(tmp_path, {"file": "metrics.jsonl", "key": "accuracy"}) == 0.7
