"""Imagenette (Howard, 2019): ten easily told classes of ImageNet in class folders."""

from dataclasses import dataclass, replace

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec
from mae_jax.data.sources.folder import Files, Folder

CLASSES = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip
FOLDERS = ("imagenette2", "imagenette2-320", "imagenette2-160")


@dataclass(frozen=True)
class Imagenette(Spec):
    """Imagenette: the `folder` source with the names of its ten classes; splits train (9,469) and val (3,925).

    Args:
        path: the unpacked folder with train/ and val/ (imagenette2, or imagenette2-320 or -160 with images resized
            to a short side of so many pixels), or the one that it lies in.
    """

    path: str

    def open(self, split: str) -> Source:
        folder = Folder(self.path)
        if inside := next((f for f in FOLDERS if (folder.directory() / f / "train").is_dir()), None):
            folder = replace(folder, path=str(folder.directory() / inside))
        source = folder.open(split)
        assert isinstance(source, Files)
        if source.classes != tuple(CLASSES):
            found = ", ".join(source.classes[:5]) or "no class folders"
            raise UserError(
                f"{folder.path} is not Imagenette: class folders {', '.join(list(CLASSES)[:3])}, ... expected, {found} "
                "found. Get imagenette2 from https://github.com/fastai/imagenette and give the folder with train/ and "
                "val/; for other images use data.source=folder."
            )
        source.classes = tuple(CLASSES.values())
        return source
