"""A k-means codebook of raw patches, for CAE's small experiments (teachers/kmeans.py).

python benchmarks/codebook.py            mae_jax/teachers/bundled/digits_patch2_k16.npz, from the training digits
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from mae_jax.data.sources import make_source

BUNDLED = Path(__file__).parents[1] / "mae_jax" / "teachers" / "bundled"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--codes", type=int, default=16)
    parser.add_argument("--output", type=Path, help="default: the bundled file of that patch and number of codes")
    args = parser.parse_args(argv)
    centroids = codebook(patches(args.patch), args.codes)
    path = args.output or BUNDLED / f"digits_patch{args.patch}_k{args.codes}.npz"
    np.savez(path, centroids=centroids)
    print(f"{path}: {centroids.shape[0]} centroids of {centroids.shape[1]} values")
    return 0


def patches(patch: int) -> np.ndarray:
    """All patches of the training digits [n, patch * patch], in [0, 1], each in raster order."""
    source = make_source("digits", "train", {})
    images = np.stack([source.image(i) for i in range(len(source))]).astype(np.float32) / 255
    b, height, width, channels = images.shape
    cut = images.reshape(b, height // patch, patch, width // patch, patch, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * channels)


def codebook(x: np.ndarray, codes: int) -> np.ndarray:
    """The best of ten runs of k-means, darkest centroid first."""
    centroids = KMeans(codes, n_init=10, random_state=0).fit(x).cluster_centers_
    return centroids[np.argsort(centroids.mean(axis=1))].astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
