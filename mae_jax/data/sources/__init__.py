"""Where images come from. Adding a source: one file with a frozen dataclass (a `Spec`), one line in SOURCES."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, get_type_hints

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.array_record import ArrayRecord
from mae_jax.data.sources.audio import Audio
from mae_jax.data.sources.base import Arrays, Source, Spec
from mae_jax.data.sources.chirps import Chirps, Tones
from mae_jax.data.sources.cifar import Cifar10, Cifar100
from mae_jax.data.sources.digits import Digits
from mae_jax.data.sources.episode import Episode
from mae_jax.data.sources.folder import Folder
from mae_jax.data.sources.graphs import GraphsNpz
from mae_jax.data.sources.graphs_made import Networkx, StochasticBlocks
from mae_jax.data.sources.graphs_read import TU, Planetoid
from mae_jax.data.sources.imagenette import Imagenette
from mae_jax.data.sources.made_points import MadePoints
from mae_jax.data.sources.mixture import Mixture
from mae_jax.data.sources.moving_digits import MovingDigits
from mae_jax.data.sources.npz import Npz
from mae_jax.data.sources.parquet import Parquet
from mae_jax.data.sources.photos import Photos
from mae_jax.data.sources.points import Points
from mae_jax.data.sources.segmentation import Segmentation
from mae_jax.data.sources.sensors import Sensors
from mae_jax.data.sources.shapes import Shapes
from mae_jax.data.sources.stl10 import Stl10
from mae_jax.data.sources.subset import open_split
from mae_jax.data.sources.synthetic import Synthetic
from mae_jax.data.sources.tar import Tar
from mae_jax.data.sources.tfds import Tfds
from mae_jax.data.sources.videos import Videos
from mae_jax.data.sources.volumes import Volumes

__all__ = ["SOURCES", "Arrays", "Source", "Spec", "make_source", "make_spec", "open_split"]

SOURCES: dict[str, type] = {
    "array_record": ArrayRecord,
    "audio": Audio,
    "chirps": Chirps,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "digits": Digits,
    "episode": Episode,
    "folder": Folder,
    "graphs_npz": GraphsNpz,
    "imagenette": Imagenette,
    "made_points": MadePoints,
    "mixture": Mixture,
    "moving_digits": MovingDigits,
    "networkx": Networkx,
    "npz": Npz,
    "parquet": Parquet,
    "photos": Photos,
    "planetoid": Planetoid,
    "points": Points,
    "sbm": StochasticBlocks,
    "segmentation": Segmentation,
    "sensors": Sensors,
    "shapes": Shapes,
    "stl10": Stl10,
    "synthetic": Synthetic,
    "tar": Tar,
    "tfds": Tfds,
    "tones": Tones,
    "tu": TU,
    "video": Videos,
    "volumes": Volumes,
}


def make_source(name: str, split: str, fields: Mapping[str, Any]) -> Source:
    """Open a split ("train", "test", "val") or a slice of it ("train[:90%]") of the source `name`.

    Args: fields: the source's config keys. The expressions of `split` are those of `subset.open_split`.

    Raises: UserError for an unknown source, split or field, a missing or mistyped field, or data that are not there.
    """
    return open_split(make_spec(name, fields), split)


def make_spec(name: str, fields: Mapping[str, Any]) -> Spec:
    """The source `name` with its config keys, checked, not opened. Raises: as `make_source`."""
    if name not in SOURCES:
        raise UserError(f"There is no data source '{name}'. {nearest(name, SOURCES)}")
    spec = SOURCES[name]
    known = {f.name: f for f in dataclasses.fields(spec)}
    for field in fields:
        if field not in known:
            raise UserError(f"The data source '{name}' has no field '{field}'. {nearest(field, known)}")
    missing = [f for f, d in known.items() if f not in fields and d.default is dataclasses.MISSING]
    if missing:
        raise UserError(
            f"The data source '{name}' needs data.{missing[0]}, which is not given: set it in the config or add "
            f"--config.data.{missing[0]}=... to the command."
        )
    hints = get_type_hints(spec)
    return spec(**{f: _checked(name, f, value, hints[f]) for f, value in fields.items()})


def _checked(source: str, field: str, value: Any, wanted: Any) -> Any:
    """`value` as the type that the field declares (int, float, str; anything else is left to the source)."""
    kinds: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, str: str}
    if wanted in kinds:
        if not isinstance(value, kinds[wanted]) or isinstance(value, bool):
            raise UserError(
                f"data.{field} of the source '{source}' is {value!r}: {wanted.__name__} expected, "
                f"{type(value).__name__} given."
            )
        return wanted(value)
    return value
