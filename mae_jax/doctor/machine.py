"""The machine by itself: versions, what comes with the package, memory, limits, places that must be writable."""

import configparser
import importlib.metadata
import os
import platform
import resource
import shutil
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mae_jax
from mae_jax.core.npy import Npz
from mae_jax.data.decode import codec
from mae_jax.data.workers import cores
from mae_jax.doctor.lines import Line, State, size

FILES = 1024  # open files that a run needs at least: each source keeps up to 256 shards open
SHARED = 1 << 30  # bytes of /dev/shm below which workers may run out
CACHE_ROOM = 1 << 30  # bytes that compiled programs may take
BUNDLED = ("digits_patch2_k16.npz", "digits_vit.npz")  # teachers/bundled
TEMPLATE = ("method.py", "config.py", "test_method.py", "page.md")


def requirements() -> tuple[str, list[str]]:
    """(versions of Python, requirements) of the installed package, or of the setup.cfg beside a clone of it."""
    try:
        about = importlib.metadata.metadata("mae_jax")
        return "".join(about.get_all("Requires-Python") or []), list(about.get_all("Requires-Dist") or [])
    except importlib.metadata.PackageNotFoundError:
        config = configparser.ConfigParser()
        config.read(Path(mae_jax.__file__).parents[1] / "setup.cfg")
        options = config["options"] if config.has_section("options") else {}
        lines = options.get("install_requires", "").splitlines()
        return options.get("python_requires", ""), [line.strip() for line in lines if line.strip()]


def versions() -> list[Line]:
    """Python, and every package against the bounds of ours; of extras those that are installed."""
    python, needed = requirements()
    wrong, seen, kept = [], 0, []
    if not SpecifierSet(python).contains(platform.python_version()):
        wrong.append(Line("bad", "versions", f"Python {platform.python_version()}", f"Python {python} is needed"))
    for text in needed:
        need = Requirement(text)
        extra = need.marker is not None and not need.marker.evaluate({"extra": ""})
        try:
            found = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            if not extra:
                wrong.append(Line("bad", "versions", f"{need.name} is missing", f"pip install '{_pip(need)}'"))
            continue
        seen += 1
        if need.name in ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy") and not extra:
            kept.append(f"{need.name} {found}")
        if not need.specifier.contains(found, prereleases=True):
            said = f"{need.name} {found} is outside {need.specifier}"
            wrong.append(Line("warn" if extra else "bad", "versions", said, f"pip install '{_pip(need)}'"))
    jax, jaxlib = (importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    if jax.split(".")[:2] != jaxlib.split(".")[:2]:
        wrong.append(Line("bad", "versions", f"jax {jax} with jaxlib {jaxlib}", f"pip install 'jaxlib=={jax}'"))
    said = f"mae_jax {mae_jax.__version__}, Python {platform.python_version()}, {', '.join(kept)}"
    return wrong or [Line("ok", "versions", f"{said}; {seen} packages within their bounds")]


def _pip(need: Requirement) -> str:
    return f"{need.name}{need.specifier}"


def bundled() -> list[Line]:
    """What comes with the package is there and can be read."""
    root = Path(mae_jax.__file__).parent
    broken = []
    for name in BUNDLED:
        try:
            file = Npz(root / "teachers" / "bundled" / name)
            assert all(file[array].size for array in file)
        except (OSError, ValueError, AssertionError) as error:
            broken.append(f"teachers/bundled/{name} ({error})")
    broken += [f"template/{name}" for name in TEMPLATE if not (root / "template" / name).is_file()]
    if broken:
        return [Line("bad", "bundled", f"missing or damaged: {', '.join(broken)}", "install mae_jax again")]
    return [Line("ok", "bundled", f"{len(BUNDLED)} small teachers, the template of `mae_jax new`")]


def decoders() -> list[Line]:
    """What decodes images here; a slow stand-in is said."""
    slow = [f"{task}: {name}" for task, name in codec().items() if "slower" in name]
    missing = [task for task, name in codec().items() if name.startswith("none") and task != "video"]
    if slow or missing:
        said = "; ".join(slow + [f"nothing reads {task}" for task in missing])
        return [Line("warn", "decoders", said, "pip install simplejpeg cykooz.resizer tifffile opencv-python-headless")]
    return [Line("ok", "decoders", ", ".join(sorted({name for name in codec().values() if "none" not in name})))]


def memory() -> list[Line]:
    """The host's memory that is free, within the limit of the container."""
    free, whole = host_memory()
    state = Line(
        "warn", "memory", f"{size(free)} of {size(whole)} free", "end other programs, or take a larger machine"
    )
    return [state if free < 0.1 * whole or free < 2e9 else Line("ok", "memory", f"{size(free)} of {size(whole)} free")]


def host_memory() -> tuple[int, int]:
    """(bytes free, bytes in all), of the machine or of the container (cgroup) if that is less."""
    with open("/proc/meminfo") as file:
        rows = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    free, whole = rows["MemAvailable"], rows["MemTotal"]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, taken = int(Path(limit).read_text()), int(Path(used).read_text())
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        if most < whole:
            free, whole = min(free, max(0, most - taken)), most
    return free, whole


def limits(workers: int, written: int) -> list[Line]:
    """What the system lets a process do.

    Args:
      workers: data.workers. written: bytes of a checkpoint.
    """
    found = []
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FILES:
        how = f"ulimit -n {FILES if most == resource.RLIM_INFINITY else min(most, 65536)}"
        found.append(Line("bad" if files < 256 else "warn", "limits", f"{files} open files", how))
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if longest != resource.RLIM_INFINITY:
        state: State = "bad" if longest < max(written, 1 << 20) else "warn"
        found.append(Line(state, "limits", f"files of at most {size(longest)}", "ulimit -f unlimited"))
    room, _ = resource.getrlimit(resource.RLIMIT_AS)
    if room != resource.RLIM_INFINITY:
        found.append(
            Line("warn", "limits", f"{size(room)} of addresses, which JAX takes freely", "ulimit -v unlimited")
        )
    if workers > cores():
        said = f"data.workers={workers} on {cores()} cores"
        found.append(Line("warn", "limits", said, f"--config.data.workers={cores()}, or 0 for threads"))
    return found or [Line("ok", "limits", f"{files} open files, {cores()} cores")]


def shared_memory(workers: int, needed: int) -> list[Line]:
    """Room in /dev/shm, through which data workers hand their batches over.

    Args:
      needed: bytes that the workers may hold ready.
    """
    place = Path("/dev/shm")
    if not place.is_dir():
        return [Line("bad" if workers else "warn", "shared memory", "there is no /dev/shm", "mount a tmpfs there")]
    free = shutil.disk_usage(place).free
    mend = "docker run --ipc=host (or --shm-size=8g); Kubernetes: an emptyDir with medium: Memory; or data.workers=0"
    if workers and free < needed:
        return [Line("bad", "shared memory", f"{size(free)} free, data.workers may need {size(needed)}", mend)]
    if free < SHARED:
        return [Line("warn", "shared memory", f"{size(free)} free", mend)]
    return [Line("ok", "shared memory", f"{size(free)} free in /dev/shm")]


def compile_cache(directory: str | None) -> list[Line]:
    """Whether compiled programs can be kept.

    Args:
      directory: jax_compilation_cache_dir.
    """
    mend = "set JAX_COMPILATION_CACHE_DIR to a folder that can be written, best on a disk of this host"
    if not directory:
        return [Line("warn", "compile cache", "none: every start compiles anew", mend)]
    if "://" in directory:
        return [Line("ok", "compile cache", f"{directory} (not tried: it is no local folder)")]
    problem = unwritable(Path(directory))
    if problem:
        return [Line("warn", "compile cache", f"{directory}: {problem}", mend)]
    free = shutil.disk_usage(existing(Path(directory))).free
    if free < CACHE_ROOM:
        return [Line("warn", "compile cache", f"{directory}: {size(free)} free", mend)]
    return [Line("ok", "compile cache", f"{directory}, {size(free)} free")]


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def unwritable(path: Path) -> str:
    """Why no file can be written below a path ("" where one can). Leaves nothing there."""
    try:
        with tempfile.NamedTemporaryFile(dir=existing(path), prefix=".mae_jax-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"it cannot be written ({error.strerror})"
    return ""
