"""The model card beside exported weights: a README.md that says what they are, from what, and with which results."""

import json
from pathlib import Path
from typing import Any

import mae_jax
from mae_jax.weights.store import Weights
from mae_jax.weights.uses import describe


def card(weights: Weights, title: str, use: str, left_out: dict[str, str], run: Path | None = None) -> str:
    """Markdown.

    Args:
      use: Python code that loads what the card lies beside.
      left_out: {part of the weights: why it was not written}.
      run: the workdir that they come from, for its results.
    """
    method = weights.config["method"]
    licence = weights.info.get("licence")
    parts = [
        f"---\nlibrary_name: mae_jax\ntags: [{method['name']}, masked-image-modeling, vision-transformer]\n---",
        f"# {title}",
        f"Written by mae_jax {mae_jax.__version__} from `{weights.info.get('source') or 'weights in memory'}`"
        + (f" (sha256 `{weights.info['sha256']}`)" if weights.info.get("sha256") else "") + ".",
        _code(describe(weights), ""),
        f"## Use\n\n{_code(use, 'python')}",
        f"## Licence\n\n{_licence(licence)}",
        f"## Data\n\n{_data(weights.config)}",
        f"## Results\n\n{_results(run)}",
    ]  # fmt: skip
    if left_out:
        lines = "\n".join(f"* {part}: {why}" for part, why in left_out.items())
        parts.append(f"## Left out\n\n{lines}")
    parts.append(f"## Config\n\n{_code(json.dumps(weights.config, indent=2), 'json')}")
    return "\n\n".join(parts) + "\n"


def _licence(licence: str | None) -> str:
    if licence is None:
        return (
            "These weights come from a run of your own: name the licence under which you give them away, and heed that "
            "of the data."
        )
    return f"The weights' own: {licence}. Converting a file does not change its licence."


def _data(config: dict[str, Any]) -> str:
    data, colours = config.get("data"), config.get("augment", {})
    lines = [f"Trained on `{data['source']}`" + (f" at `{data['path']}`" if data.get("path") else "") + "."
             if data else "Not stated by the file."]  # fmt: skip
    if "mean" in colours:
        mean, std = (tuple(round(v, 6) for v in colours[key]) for key in ("mean", "std"))
        lines.append(f"Input: pixels in [0, 1], minus {mean}, over {std}, per channel.")
    return " ".join(lines)


def _results(run: Path | None) -> str:
    """results.json and the last logged numbers of a run."""
    found = []
    if run is not None and (run / "results.json").is_file():
        found.append("`results.json` of the run:\n\n" + _code((run / "results.json").read_text().strip(), "json"))
    if run is not None and (run / "metrics.jsonl").is_file():
        lines = (run / "metrics.jsonl").read_text().strip().splitlines()
        if lines:
            found.append("The last line of its `metrics.jsonl`:\n\n" + _code(lines[-1], "json"))
    return "\n\n".join(found) or "None were found beside the weights."


def _code(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
