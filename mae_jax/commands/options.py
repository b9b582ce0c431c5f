"""Options that several verbs share: a config with overrides, a workdir, the processes of a multi-host run."""

import argparse
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_jax.commands.cluster import several_processes
from mae_jax.config import load, resolve
from mae_jax.core.errors import UserError, nearest
from mae_jax.schema import Config

OVERRIDES_HELP = """\
overrides:
  --config.SECTION.KEY=VALUE changes one value of the config, as often as you like:
    --config.optim.learning_rate=1e-3 --config.data.path=/my/images --config.augment.mean='(0.5,)'
  Sections: method, data, augment, optim, train, checkpoint, eval, transfer, mesh, log, guard. mae_jax/schema.py
  documents their keys; `mae_jax list` shows the fields of methods and data sources. A mistyped key is answered with the
  nearest.
"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written; options beside their explanation."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=min(shutil.get_terminal_size((120, 24)).columns, 120) - 2)


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """(the arguments without overrides, ["section.key=value", ...]); reads --config.a.b=c and --config.a.b c."""
    rest: list[str] = []
    overrides: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument.startswith("--data."):  # `prepare` reads nothing else of a config
            argument = f"--config.{argument.removeprefix('--')}"
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        text = argument.removeprefix("--config.")
        if "=" not in text:
            value = next(arguments, None)
            if value is None or value.startswith("--"):
                raise UserError(f"{argument} has no value; write {argument}=VALUE.")
            text = f"{text}={value}"
        overrides.append(text)
    return rest, overrides


def from_workdir(workdir: Path, overrides: list[str]) -> Config:
    """The config of the run in a workdir, with overrides."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no run: it has no config.json. Give the --workdir of a `mae_jax train`.")
    return from_file(str(path), overrides)


def from_file(spec: str, overrides: list[str]) -> Config:
    """A config file (.py or .json), resolved."""
    raw, _ = load(spec, overrides)
    return resolve(raw, overrides)


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """--workdir and --step: which weights of which run."""
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="directory of the run")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to use (default: the newest good one)")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """--workdir and --step, or --weights: a run's weights, or a file's."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--workdir", type=Path, metavar="DIR", help="directory of a run")
    group.add_argument("--weights", metavar="FILE", help="a weights file (docs/weights.md) or a published one")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of --workdir (default: the newest good one)")
    parser.set_defaults(config=None)


def opened(args: argparse.Namespace):
    """What `add_weights` names, opened (mae_jax/weights/opened.py), with this command's overrides."""
    from mae_jax.weights.opened import opened as open_

    if args.weights is not None and args.step is not None:
        raise UserError("--step chooses a checkpoint of a --workdir; a file of weights has only one.")
    if args.workdir is not None and not (args.workdir / "config.json").is_file():
        raise UserError(f"{args.workdir} is no run: it has no config.json. Give the --workdir of a `mae_jax train`.")
    compile_cache()
    return open_(args.workdir or args.weights, args.overrides, step=args.step)


def check_png(path: Path | None) -> None:
    """Raise UserError where a picture's --output is no .png."""
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"--output {path}: pictures are written as PNG, so a name that ends in .png is expected.")


def write_picture(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(path)`; a directory that cannot be written is a UserError."""
    try:
        write(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Name another --output FILE.png.") from None


def source_name(text: str) -> tuple[str, str]:
    """(name of the source, its path or "") of SOURCE:PATH; a directory alone is a folder."""
    from mae_jax.data.sources import SOURCES

    name, colon, path = text.partition(":")
    if not colon and name in SOURCES and not Path(text).exists():
        return name, ""
    if not colon or (name not in SOURCES and (Path(text).exists() or not re.fullmatch(r"\w+", name))):
        return "folder", text
    if name not in SOURCES:
        raise UserError(f"There is no data source '{name}'. {nearest(name, SOURCES)}")
    return name, path


def add_processes(parser: argparse.ArgumentParser) -> None:
    """How several processes find each other."""
    group = parser.add_argument_group(
        "several processes",
        "Cloud TPU pods and Slurm are detected; elsewhere start one process per host with all three.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")


def start_processes(args: argparse.Namespace, heartbeat: float = 60.0) -> None:
    """Join the processes of this run, where there are several. Must come before anything touches a device.

    Args: heartbeat: config.guard.heartbeat, after which train/hosts.py counts a process as lost; jax does later.
    """
    given = (args.coordinator, args.processes, args.process_id)
    if any(v is not None for v in given) and any(v is None for v in given):
        raise UserError("--coordinator, --processes and --process-id belong together: give all three, or none.")
    if args.coordinator is not None:
        if not re.fullmatch(r".+:\d+", args.coordinator):
            raise UserError(f"--coordinator {args.coordinator}: HOST:PORT expected, as 10.0.0.1:1234 (of process 0).")
        if not 0 <= args.process_id < args.processes:
            raise UserError(
                f"--process-id {args.process_id} of --processes {args.processes}: they are numbered from 0 to "
                f"{args.processes - 1}."
            )
    if args.coordinator is None and not several_processes():
        return
    import jax

    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # jax's notifier would swallow SIGTERM before and after the loop; in it train/signals.py hears of signals.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=int(1.5 * heartbeat) + 10)
    except (RuntimeError, ValueError) as error:  # nobody answers, or the cluster says nothing of itself
        where = f"the coordinator {args.coordinator}" if args.coordinator else "the other processes of this cluster"
        raise UserError(
            f"could not join {where}: {str(error).splitlines()[0]}. Every process must be started, with the same "
            f"--coordinator and --processes and a --process-id of its own, and reach the first one's port."
        ) from error


def compile_cache() -> None:
    """Keep compiled programs across runs: a second start is faster. JAX_COMPILATION_CACHE_DIR moves it."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "mae_jax" / "compiled"))
