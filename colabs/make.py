"""Write the notebooks from their plain-text sources.

    python colabs/make.py

A source, colabs/src/NAME.py, is a list of cells: "# %% [markdown]" begins one of text (its lines commented out),
"# %%" one of code, and "# %% install" stands for the installation, which is the same everywhere. Notebooks carry no
outputs; a test holds them to their sources.
"""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent

INSTALL = """\
# @title Install (in Colab; where mae_jax is installed, this does nothing)
REPOSITORY = ""  # @param {type:"string"}
# the address that mae_jax is cloned from, as https://github.com/OWNER/mae_jax

import importlib.util
import shutil
import subprocess
import sys

if importlib.util.find_spec("mae_jax") is None:
    if not REPOSITORY:
        raise SystemExit("Fill in REPOSITORY above: the address that mae_jax is cloned from.")
    extra = "[cuda]" if shutil.which("nvidia-smi") else ""
    package = f"mae_jax{extra} @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
"""


def cells(text: str) -> list[tuple[str, str]]:
    """("markdown" or "code", source) of each cell of a source; what stands before the first is its own business."""
    found = []
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", text, re.M):
        kind = head.strip()
        if kind == "install":
            found.append(("code", INSTALL))
        elif kind == "[markdown]":
            found.append(("markdown", re.sub(r"^# ?", "", body, flags=re.M)))
        else:
            found.append(("code", body))
    return [(kind, body.strip("\n")) for kind, body in found]


def notebook(text: str) -> str:
    """The notebook of a source, as JSON."""
    written = []
    for number, (kind, body) in enumerate(cells(text)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": body.splitlines(keepends=True)}
        if kind == "code":
            form = {"cellView": "form"} if body.startswith("# @title") else {}
            cell |= {"execution_count": None, "metadata": form, "outputs": []}
        written.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": written, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
             "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def sources() -> dict[Path, Path]:
    """{source: notebook}."""
    return {path: FOLDER / f"{path.stem}.ipynb" for path in sorted((FOLDER / "src").glob("*.py"))}


if __name__ == "__main__":
    for source, target in sources().items():
        target.write_text(notebook(source.read_text()))
        print(target)
