"""The results table, and the records that it is made of.

    python benchmarks/results.py                           RESULTS.md from docs/results/*.json
    python benchmarks/results.py parity lut cae            run parity over tests/golden/NAME and record it
    python benchmarks/results.py tiny lut RUN RUN RUN      read the tiny experiment of three seeds' workdirs

A record says where each of its numbers comes from. `tiny.measure` names a number of a run: {"file": "results.json",
"key": "linear/pretrained", "minus": "linear/random"}, or {"file": "metrics.jsonl", "key": "accuracy"} (the last one;
with "last": "100" the mean over the last 100 steps). Without it the numbers are those that `tiny.command` prints.
"""

import argparse
import glob
import io
import json
import platform
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results"
TABLE = ROOT / "RESULTS.md"

HEAD = """\
# Results

Written by `python benchmarks/results.py` from the records in docs/results; do not edit. Each method's page says more.

* **Parity**: what the authors' code computed for fixed weights and inputs against ours: comparisons passed, and the
  largest error relative to the array's largest entry (float32, CPU).
* **Tiny experiment**: seeds 0, 1, 2 of a config that takes a minute or two on two CPU cores, and the bar
  it was held to.
* **Published**: what the paper or its repository reports. We have not reproduced these: they need accelerators.

| method | parity | tiny experiment | measured (seeds) | bar | published |
|---|---|---|---|---|---|
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what")
    what.add_parser("parity").add_argument("names", nargs="+")
    tiny = what.add_parser("tiny")
    tiny.add_argument("name")
    tiny.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args(argv)
    if args.what == "parity":
        for name in args.names:
            write(name, parity=parity(name))
    if args.what == "tiny":
        record = read(args.name)
        write(args.name, tiny=record["tiny"] | experiment(record["tiny"], args.runs))
    TABLE.write_text(table())
    return 0


def read(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / f"{name}.json").read_text())


def write(name: str, **parts: Any) -> None:
    (RECORDS / f"{name}.json").write_text(json.dumps(read(name) | parts, indent=2) + "\n")


def parity(name: str) -> dict[str, Any]:
    """Run it, and refuse to record a failure."""
    from mae_jax.interop import parity

    files = sorted(glob.glob(str(ROOT / "tests" / "golden" / name / "*.npz")))
    with redirect_stdout(out := io.StringIO()):
        status = parity.run(files, as_json=True)
    lines = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
    if status or not lines:
        sys.exit(f"parity of {name} fails: `mae_jax parity tests/golden/{name}/*.npz` says where")
    loose = [line for line in lines if line.get("note", "").startswith("tolerance")]  # limited by their float32
    return {
        "files": len(files), "comparisons": len(lines), "loose": len(loose),
        "worst": max(line["max_rel"] for line in lines if line not in loose),
        "command": f"mae_jax parity tests/golden/{name}/*.npz", "machine": machine(),
    }  # fmt: skip


def experiment(tiny: Mapping[str, Any], runs: list[Path]) -> dict[str, Any]:
    """The measure of each run, by its seed."""
    if "measure" not in tiny:
        raise SystemExit(
            f"its numbers are no runs' but made by `{tiny['command']}`: write what that prints into the record"
        )
    seeds = {}
    for run in runs:
        config = json.loads((run / "config.json").read_text())
        seeds[str(config["train"]["seed"])] = round(number(run, tiny["measure"]), 4)
    return {"seeds": dict(sorted(seeds.items())), "machine": machine()}


def number(run: Path, measure: Mapping[str, str]) -> float:
    """The number of a run that `measure` names."""
    text = (run / measure["file"]).read_text()
    if measure["file"].endswith(".jsonl"):
        lines = [json.loads(line) for line in text.splitlines()]
        first = max(line["step"] for line in lines) - int(measure.get("last", 0))
        some = lambda key: [line[key] for line in lines if key in line and line["step"] > first]
        pick = lambda key: sum(some(key)) / len(some(key)) if "last" in measure else some_last(lines, key)
    else:
        values = json.loads(text)
        pick = lambda key: values[key.split("/")[0]][key.split("/")[1]]
    return pick(measure["key"]) - (pick(measure["minus"]) if "minus" in measure else 0.0)


def some_last(lines: list[dict[str, Any]], key: str) -> float:
    return next(line[key] for line in reversed(lines) if key in line)


def machine() -> str:
    import jax

    return f"{platform.machine()} CPU, {jax.device_count()} device(s), jax {jax.__version__}"


def table() -> str:
    """RESULTS.md as text."""
    rows = [row(json.loads(path.read_text())) for path in sorted(RECORDS.glob("*.json"))]
    return HEAD + "\n".join(rows) + "\n"


def _agreement(parity: Mapping[str, Any]) -> str:
    loose = f" ({parity['loose']} held to 5e-3)" if parity.get("loose") else ""
    return f"{parity['comparisons']} of {parity['comparisons']}, {parity['worst']:.0e}{loose}"


def row(record: Mapping[str, Any]) -> str:
    agree, tiny = record.get("parity"), record.get("tiny", {})
    cells = [
        f"[{record['method']}](docs/methods/{record['method']}.md)",
        _agreement(agree) if agree else "-",
        tiny.get("what", "-"),
        ", ".join(f"{value:g}" for value in tiny.get("seeds", {}).values()) or "-",
        tiny.get("bar", "-"),
        "; ".join(f"{p['number']} {p['what']} ({p['source']})" for p in record.get("published", [])) or "-",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
