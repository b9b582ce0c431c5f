"""The table and the plot of benchmarks/README.md, from what train_step.py --json wrote.

    python benchmarks/train_step_table.py benchmarks/results/train_step_*_cpu.json --plot docs/images/train_step_cpu.png

Every record is one run; its contestants took turns. Bars are medians over rounds, lines from the lowest to the highest.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_jax.eval.figures import COLOURS, finish, panels, save


def name_of(record: dict[str, Any]) -> str:
    """ "vit_b16_imagenet, batch 16, float32"."""
    argv = [part for word in record["argv"] for part in word.split("=", 1)]  # --config FILE and --config=FILE
    config = Path(argv[argv.index("--config") + 1].partition(":")[0]).stem
    return f"{config}, batch {record['config']['train']['batch']}, {record['config']['train']['precision']}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row per record and contestant; ratios are the first's images/s over its, round by round."""
    lines = [
        "| run | contestant | images/s, median (range) | GFLOP/s | MFU | the first / this |",
        "|---|---|---|---|---|---|",
    ]
    for record in records:
        first = next(iter(record["results"].values()))
        for name, found in record["results"].items():
            rate, mfu = found["images_per_s"], "-" if found["mfu"] is None else f"{found['mfu']:.1%}"
            ratios = [its / ours for its, ours in zip(found["rounds_s"], first["rounds_s"])]
            said = " ".join(f"{r:.2f}" for r in ratios) + f", median {statistics.median(ratios):.2f}"
            lines.append(
                f"| {name_of(record)} | {name} | {rate['median']:.2f} ({rate['min']:.2f} .. {rate['max']:.2f}) | "
                f"{found['gflop_per_s']:.0f} | {mfu} | {'-' if found is first else said} |"
            )
    return "\n".join(lines)


def plot(records: Sequence[dict[str, Any]], path: Path) -> Path:
    """A panel per record: images/s of each contestant."""
    figure, axes = panels(len(records), height=3.2)
    for panel, record in zip(axes, records):
        for place, found in enumerate(record["results"].values()):
            rate = found["images_per_s"]
            panel.bar(place, rate["median"], color=COLOURS[place % len(COLOURS)], width=0.6)
            panel.vlines(place, rate["min"], rate["max"], color="#222222")
            panel.annotate(
                f"{rate['median']:.2f}", (place, rate["max"]), (0, 3), textcoords="offset points", ha="center"
            )
        panel.set_xticks(range(len(record["results"])), list(record["results"]))
        panel.set_ylabel("images/s")
        panel.margins(y=0.12)
        finish(panel, f"{name_of(record)}, {record['hardware']['device']}")
    return save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path, help="a PNG")
    args = parser.parse_args()
    records = [json.loads(path.read_text()) for path in args.records]
    print(table(records))
    if args.plot:
        print(f"drawn in {plot(records, args.plot)}")


if __name__ == "__main__":
    main()
