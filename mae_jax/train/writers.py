"""Where metrics go: metrics.jsonl always, TensorBoard by default, Weights & Biases on request."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.train.full_disk import Growing, replace_text

_GROWING = "mae_jax_growing"  # TensorBoard's writers go by a prefix of the path
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Writers:
    """The run's record, under WORKDIR: metrics.jsonl and tensorboard/.

    A resumed run drops the lines of steps after `resume_step`, which it will compute again, so that every
    step is there once.

    Args:
      tensorboard: write event files (by tensorboardX; TensorFlow is not needed).
      wandb: None, or arguments of wandb.init such as {"project": ..., "name": ...}.
      resume_step: the step that the run starts from; 0 starts afresh.
      config: the resolved config, for wandb.
      active: False on every process but the first: nothing is written.
    Raises:
      UserError: wandb is asked for and not installed, or the directory cannot be written.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        resume_step: int = 0,
        config: Mapping[str, Any] | None = None,
        active: bool = True,
    ):
        self.workdir = Path(workdir)
        self.active = active
        self._tensorboard: Any = None
        self._wandb: Any = None
        if not active:
            return
        run_wandb = None if wandb is None else _import_wandb()
        path = self.workdir / "metrics.jsonl"
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            drop_after(path, resume_step)
            self._lines = Growing(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error}. Choose a workdir that can be written.") from error
        if tensorboard:
            from tensorboardX import SummaryWriter
            from tensorboardX.record_writer import register_writer_factory

            register_writer_factory(_GROWING, _GrowingFiles)
            self._tensorboard = SummaryWriter(
                f"{_GROWING}:{self.workdir / 'tensorboard'}",
                purge_step=resume_step + 1 if resume_step else None,
                filename_suffix=f".{resume_step}",  # two runs that start within one second would share a file
            )
        if run_wandb is not None:
            self._wandb = _start_wandb(run_wandb, self.workdir, dict(wandb or {}), dict(config or {}))

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write the step's metrics: one line of JSON, on disk when this returns (a non-finite number as
        "nan", "inf", "-inf"). On a full disk it is held until there is room.
        """
        if not self.active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        line = json.dumps({"step": int(step), **{n: _plain(v) for n, v in numbers.items()}}, allow_nan=False)
        self._lines.write(f"{line}\n".encode())
        self._lines.flush()
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({"step": int(step), **numbers})

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        """Write one picture, uint8 [h, w, c] with 1, 3 or 4 channels, to TensorBoard and wandb.

        Raises:
          ValueError: another dtype or shape (0..1 floats would come out black).
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
            raise ValueError(f"'{name}' is {image.dtype}{list(image.shape)}, not uint8 [h, w, 1, 3 or 4].")
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, image, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({"step": int(step), name: self._wandb.Image(image)})

    def flush(self) -> None:
        """Try again to write lines that found no room."""
        if self.active:
            self._lines.flush()

    def close(self) -> None:
        """Flush and close everything."""
        if not self.active:
            return
        self.active = False
        self._lines.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class _GrowingFiles:
    """How TensorBoard's thread opens files: on a full disk an ordinary one would end it, and its full queue then stops
    whoever logs, for ever.
    """

    @staticmethod
    def open(path: str) -> Growing:
        return Growing(Path(path.removeprefix(f"{_GROWING}:")))

    @staticmethod
    def directory_check(path: str) -> None:
        Path(path.removeprefix(f"{_GROWING}:")).mkdir(parents=True, exist_ok=True)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, numbers as numbers again; a torn last line (the run was killed in it) is
    left out.

    Raises:
      UserError: the file is missing, or a line before the last is no JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist. Give the workdir of a run that has logged at least one step."
        ) from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("not an object with a step")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(
                f"line {number} of {path} is no JSON object with a step ({error}). Mend or delete that line."
            ) from error
        records.append(
            {name: _WORDS.get(value, value) if isinstance(value, str) else value for name, value in record.items()}
        )
    return records


def drop_after(path: Path, step: int) -> None:
    """Rewrite a metrics.jsonl without the lines of later steps and without a torn last line: all at once, or
    not at all.
    """
    if not path.exists():
        return
    records = read_jsonl(path)
    kept = [{name: _plain(value) for name, value in record.items()} for record in records if record["step"] <= step]
    text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
    if path.read_bytes().startswith(text.encode()):
        os.truncate(path, len(text.encode()))  # which needs no room
    else:
        replace_text(path, text)


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "log.wandb is set but the package wandb is not installed. Install it with "
            "pip install 'mae_jax[wandb]', or set log.wandb to None; metrics.jsonl and TensorBoard are "
            "written in any case."
        ) from error
    return wandb


def _start_wandb(wandb: Any, workdir: Path, arguments: dict[str, Any], config: dict[str, Any]) -> Any:
    """Start a run, or go on with the one whose id lies in the workdir."""
    marker = workdir / "wandb_id.txt"
    known = marker.read_text().strip() if marker.exists() else None
    run = wandb.init(dir=str(workdir), config=config, resume="allow", **{"id": known, **arguments})
    marker.write_text(run.id)
    # Its own step counter must never go back, which a resumed run does: plot against our step instead.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return _WandbRun(run, wandb.Image)


class _WandbRun:
    def __init__(self, run: Any, image: Any):
        self.log, self.finish, self.Image = run.log, run.finish, image
