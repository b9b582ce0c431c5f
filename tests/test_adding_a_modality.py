"""docs/adding-a-modality.md: its files and one line of a list make a modality; nothing else of the package changes."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax import methods, modalities
from mae_jax.commands.main import main
from mae_jax.data.sources import SOURCES
from mae_jax.testing import conformance

PAGE = Path(__file__).parents[1] / "docs/adding-a-modality.md"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the files of the page, where the package looks for its own: a room's __path__ is where it looks."""
    folder = tmp_path_factory.mktemp("waves")
    files = re.findall(r'^```python title="([\w/.]+)"\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert [name.split("/")[0] for name, _ in files] == ["data", "modalities", "methods", "configs"]
    spec = importlib.util.spec_from_file_location("waves", folder / "data/sources/waves.py")
    waves = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(waves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "waves", waves.Waves)  # the one list
        patch.setattr(modalities, "__path__", [*modalities.__path__, str(folder / "modalities")])
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder / "methods")])
        patch.chdir(folder)
        forget()
        yield folder
    forget()


def forget() -> None:
    """Where the package looks for modalities has changed."""
    modalities.kinds.cache_clear()
    modalities.get.cache_clear()


def run(*argv: str) -> None:
    assert main(list(argv)) == 0


def test_the_page_trains_evaluates_finetunes_and_draws(here, capsys):
    run("train", "--config", "configs/seriesmae.py", "--workdir", "runs/waves", "--config.train.steps=30")
    run("train", "--config", "configs/seriesmae.py", "--workdir", "runs/waves", "--config.train.steps=60")  # resumes
    metrics = [json.loads(line) for line in (here / "runs/waves/metrics.jsonl").read_text().splitlines()]
    losses = [m["loss"] for m in metrics if "loss" in m]
    assert losses[-1] < 0.8 * losses[0]
    found = json.loads((here / "runs/waves/results.json").read_text())
    assert found["linear"]["pretrained"] > 60  # of three classes
    run("finetune", "--workdir", "runs/waves", "--out", "runs/tuned", "--config.transfer.steps=5")
    run("reconstruct", "--workdir", "runs/waves")
    picture = np.asarray(Image.open(next((here / "runs/waves").glob("*reconstruct*.png"))))
    assert picture.std() > 10
    config = json.loads((here / "runs/waves/config.json").read_text())["augment"]
    assert config["series_gain"] == 0.3 and not any(key.startswith("volume") for key in config)
    assert json.loads((here / "runs/tuned/config.json").read_text())["augment"]["series_gain"] == 0.0


def test_what_does_not_fit_is_said(here, capsys):
    config = ("train", "--config", "configs/seriesmae.py", "--workdir", "runs/other")
    assert main([*config, "--config.augment.series_flip=2"]) == 2
    assert "augment.series_flip=2.0: a probability" in capsys.readouterr().err
    assert main([*config, "--config.augment.series_gian=0.1"]) == 2
    assert "'augment.series_gain'" in capsys.readouterr().err
    assert main([*config, "--config.method.length=128"]) == 2
    assert "of which no (128, 2) can be cut" in capsys.readouterr().err


@pytest.mark.slow
def test_the_method_holds_what_every_method_must(here):
    method = methods.get("seriesmae")(length=16, patch=4, dim=16, heads=2)
    conformance.check(method)
