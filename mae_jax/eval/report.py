"""What is written about an evaluation: a table for people, `results.json` and `results_full.json` for machines."""

from collections.abc import Mapping, Sequence
from typing import Any

from mae_jax.eval.probes import DEFAULTS, PROTOCOLS, Result, Results, Settings, protocol_of, title_of

Health = Mapping[str, Mapping[str, float]]  # set of features -> measure -> value


def table(results: Results, settings: Settings = DEFAULTS, titles: Mapping[str, str] | None = None) -> str:
    """Protocols down, sets of features across; percent with a 95 % interval where there is one.

    Args:
      titles: of rows that are not in `probes.PROTOCOLS`.
    """
    titles = titles or {}
    rows = [
        [titles.get(row) or title_of(row, settings), *(_cell(found.get(row)) for found in results.values())]
        for row in _rows(results)
    ]
    return _aligned(["accuracy (%)", *results], rows)


def health_table(health: Health) -> str:
    """Measures down, sets of features across."""
    names = list(dict.fromkeys(name for found in health.values() for name in found if "/" not in name))
    titles = [name.replace("_", " ") for name in names]
    cells = [[f"{found[n]:.3g}" if n in found else "-" for found in health.values()] for n in names]
    return _aligned(["health", *health], [[title, *row] for title, row in zip(titles, cells, strict=True)])


def tables(
    results: Results, health: Health, settings: Settings = DEFAULTS, titles: Mapping[str, str] | None = None
) -> str:
    """Both, as far as there is anything in them."""
    found = [table(results, settings, titles)] if any(results.values()) else []
    return "\n\n".join([*found, *([health_table(health)] if any(health.values()) else [])])


def results_json(results: Results, health: Health | None = None) -> dict[str, dict[str, float]]:
    """{row or measure: {set of features: value}}: percent to 2 decimals, measures of health to 4."""
    out = {
        row: {name: round(found[row].accuracy, 2) for name, found in results.items() if row in found}
        for row in _rows(results)
    }
    for name, found in (health or {}).items():
        for measure, value in found.items():
            if "/" not in measure:
                out.setdefault(measure, {})[name] = round(value, 4)
    return out


def full_json(
    results: Results, health: Health | None = None, *, configs: Mapping[str, Any] | None = None, **facts: Any
) -> dict[str, Any]:
    """Everything: each row's accuracy, interval and details by set, the protocols' settings, and further facts.

    Args:
      configs: {protocol: its settings}.
      facts: of weights, data and version, put in front.
    """
    rows = {
        row: {
            "protocol": protocol_of(row),
            "results": {
                name: {"accuracy": found[row].accuracy, "interval_95": found[row].interval,
                       "details": dict(found[row].details)}
                for name, found in results.items() if row in found
            },
        }
        for row in _rows(results)
    }  # fmt: skip
    return {
        **facts, "protocols": dict(configs or {}), "results": rows,
        "health": {name: dict(found) for name, found in (health or {}).items()},
    }  # fmt: skip


def _rows(results: Results) -> list[str]:
    """All rows, in the order of PROTOCOLS; the others after them."""
    found = dict.fromkeys(row for rows in results.values() for row in rows)
    order = list(PROTOCOLS)
    rank = lambda row: order.index(protocol_of(row)) if protocol_of(row) in order else len(order)
    return sorted(found, key=rank)


def _cell(result: Result | None) -> str:
    if result is None:
        return "-"
    accuracy = f"{result.accuracy:.1f}"
    return accuracy if result.interval is None else f"{accuracy} (+-{result.interval:.1f})"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column left, the others right, a line under the head."""
    every = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = []
    for title, *cells in every:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([title.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
