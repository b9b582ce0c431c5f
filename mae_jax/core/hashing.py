"""A content hash per array that is the same under any sharding and sees a single flipped bit.

Each array is read as uint32 words (its bit pattern, narrower types widened, wider types split, least
significant word first). A word is mixed with its row-major position in the whole array by two different
bijections of 32 bits, and each stream is summed modulo 2^32. Addition commutes, so shards may be summed in
any order; the mixers are bijections, so any change confined to one word is always seen; the position makes
swapped elements count (missed with probability near 2^-64).

It guards against broken storage, not against an adversary. Shape and dtype are not part of the hash: record
them beside it.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from mae_jax.core.tree import flatten

_CHUNK = (
    1 << 14
)  # words that the numpy twin mixes at a time: its scratch then stays in the cache (5x faster than 1 << 20)


_FOLD = 16  # slices of a block that are added up side by side
_BLOCKS = (1 << 20, 1 << 18, 1 << 16, 1 << 14)  # words that a compiled program of the host takes


_NARROW = (
    "int1",
    "uint1",
    "int2",
    "uint2",
    "int4",
    "uint4",
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
)


def tree_hash(tree: Any) -> dict[str, tuple[int, int]]:
    """{path: hash} of every array of a pytree. Blocks until the arrays are computed; only the sums leave the
    devices.

    On accelerators, and for arrays over several devices, one small program per distinct shape, dtype and sharding; all
    are dispatched before the first is read, but on a CPU. For the 864 arrays of a ViT-L with AdamW a single program for
    the tree took 35 s to compile on a CPU and was no faster to run.

    Args:
      tree: pytree of jax.Array (of any sharding, also over several processes) or of numpy arrays and scalars.
    Raises:
      TypeError: a leaf that has no bit pattern to hash, such as a typed PRNG key (store `jax.random.key_data`
        of it).
    """
    return _hashes(flatten(tree), _in_place)()


def tree_hash_later(tree: Any) -> Callable[[], dict[str, tuple[int, int]]]:
    """`tree_hash` without the wait: what is returned gives the result when called, from any thread.

    The arrays may be donated meanwhile: an accelerator has the hashes in its queue before whatever overwrites them.
    What lies in the host's memory is summed when called. Until then a step that is given the array leaves its memory
    alone and writes elsewhere, as it does for orbax, which holds what it saves in the same way.
    """
    return _hashes(flatten(tree), _held)


def _hashes(flat: dict[str, Any], on_host: Callable[[Any], np.ndarray]) -> Callable[[], dict[str, tuple[int, int]]]:
    for path, leaf in flat.items():
        check_hashable(path, leaf)
    # On a CPU, programs in flight together may enter their collectives in different orders on different devices, and
    # wait for each other for ever (seen on 8 virtual devices, and on 2 processes). Other chips keep an order.
    pairs: dict[str, Any] = {}
    here: dict[str, np.ndarray] = {}
    if jax.default_backend() == "cpu":
        here = {path: on_host(leaf) for path, leaf in flat.items() if _on_one_device(leaf)}
        pairs = {path: jax.block_until_ready(device_hash(flat[path])) for path in flat if path not in here}
    else:
        for path, leaf in flat.items():
            pairs[path] = device_hash(leaf) if isinstance(leaf, jax.Array) else array_hash(leaf)

    paths = list(flat)  # and not the arrays: whoever keeps the result would keep their memory

    @functools.cache
    def result() -> dict[str, tuple[int, int]]:
        found = {path: (int(pair[0]), int(pair[1])) for path, pair in jax.device_get(pairs).items()}
        found |= _hashes_of_blocks(here)
        here.clear()
        return {path: found[path] for path in paths}

    return result


def array_hash(x: ArrayLike) -> tuple[int, int]:
    """The same hash of one host array, in numpy."""
    x = np.asarray(x)
    check_hashable("array", x)
    flat = np.ascontiguousarray(x).reshape(-1)
    if x.dtype.itemsize < 4:
        words = flat.view(np.dtype(f"u{x.dtype.itemsize}"))
    else:
        words = flat.view(np.uint32)
    first = second = 0
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint32)
        position = (np.arange(start, start + chunk.size, dtype=np.uint64) & 0xFFFFFFFF).astype(np.uint32)
        a, b = mixed(chunk, position)
        first += int(a.sum(dtype=np.uint64))
        second += int(b.sum(dtype=np.uint64))
    return first & 0xFFFFFFFF, second & 0xFFFFFFFF


def _on_one_device(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1


def _in_place(leaf: Any) -> np.ndarray:
    """The array itself where it lies in the host's memory. Unlike np.asarray this leaves no reference in a jax.Array,
    for which the step that is given the array would have to copy it.
    """
    if isinstance(leaf, jax.Array):
        try:
            return np.from_dlpack(leaf)  # type: ignore[arg-type]
        except (BufferError, RuntimeError, TypeError, ValueError):  # of another type than numpy's own
            return np.asarray(leaf)
    return np.asarray(leaf)


def _held(leaf: Any) -> np.ndarray:
    """The array as it is now, whatever becomes of it: a jax.Array's memory, a copy of what the caller may change."""
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)


def _hashes_of_blocks(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """{path: hash} of arrays in the host's memory, by all cores: four compiled programs for every shape there is.

    A program per shape took 8 s to compile for a ViT-B, and XLA's sum over a whole array on a CPU is not vectorised.
    """
    words: dict[str, np.ndarray] = {}
    jobs: list[tuple[str, int, int]] = []
    for path, x in arrays.items():
        flat = np.ascontiguousarray(x).reshape(-1)
        words[path] = flat.view(np.dtype(f"u{x.dtype.itemsize}") if x.dtype.itemsize < 4 else np.uint32)
        start = 0
        for size in _BLOCKS:
            while words[path].size - start >= size:
                jobs.append((path, start, size))
                start += size
        jobs.append((path, start, words[path].size - start))

    block_hash = _block_hash()

    def one(job: tuple[str, int, int]) -> tuple[str, int, int]:
        path, start, size = job
        block = words[path][start : start + size].astype(np.uint32, copy=False)
        if size in _BLOCKS:
            a, b = np.asarray(block_hash(block, np.uint32(start & 0xFFFFFFFF)))
        else:
            position = (np.arange(start, start + size, dtype=np.uint64) & 0xFFFFFFFF).astype(np.uint32)
            a, b = (m.sum(dtype=np.uint64) for m in mixed(block, position))
        return path, int(a), int(b)

    sums = {path: [0, 0] for path in arrays}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(cores, 16)) as threads:
        for path, a, b in threads.map(one, jobs):
            sums[path][0] += a
            sums[path][1] += b
    return {path: (a & 0xFFFFFFFF, b & 0xFFFFFFFF) for path, (a, b) in sums.items()}


@functools.cache
def _block_hash() -> Callable[[np.ndarray, np.uint32], Array]:
    """(words of a block, position of the first) -> [2] uint32, compiled for vectors as wide as the processor has.

    XLA takes half of AVX-512's width otherwise: 1.2x the time.
    """
    wide = {"xla_cpu_prefer_vector_width": 512}
    try:
        jax.jit(lambda x: x, compiler_options=wide)(np.uint32(0))
    except jax.errors.JaxRuntimeError:  # an XLA that does not have the option
        wide = {}
    return jax.jit(_block_sums, compiler_options=wide)


def _block_sums(words: Array, start: Array) -> Array:
    """[2] uint32: the sums over the words of a block whose first has the position `start`.

    Added up in slices side by side, which LLVM vectorises: of a plain sum over all words XLA makes a scalar loop.
    """
    size = words.size // _FOLD
    lane = lax.iota(jnp.uint32, size) + start
    a = b = jnp.zeros(size, jnp.uint32)
    for k in range(_FOLD):
        x, y = mixed(words[k * size : (k + 1) * size], lane + np.uint32(k * size))
        a, b = a + x, b + y
    return jnp.stack([_folded(sums) for sums in lax.optimization_barrier((a, b))])


def _folded(sums: Array) -> Array:
    size = sums.size // _FOLD
    fewer = functools.reduce(lax.add, [sums[k * size : (k + 1) * size] for k in range(_FOLD)])
    return jnp.sum(lax.optimization_barrier(fewer), dtype=jnp.uint32)


@jax.jit
def device_hash(x: Array) -> Array:
    """[2] uint32: the hash of one array, where it lies. Elementwise and a sum: sharded, it needs one
    all-reduce and no more.
    """
    if x.size == 0:
        return jnp.zeros(2, jnp.uint32)
    words = as_words(x)
    a, b = mixed(words, row_major_position(words.shape))
    return jnp.stack([jnp.sum(a, dtype=jnp.uint32), jnp.sum(b, dtype=jnp.uint32)])


def as_words(x: Array) -> Array:
    """The bit pattern as uint32: [...] for types up to 32 bits, [..., words] for wider ones."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize >= 4:
        return lax.bitcast_convert_type(x, jnp.uint32)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)


def row_major_position(shape: Sequence[int]) -> Array:
    """uint32 index of each element in row-major order, modulo 2^32. Built from one iota per axis, so that
    every shard makes its own.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    terms = [
        lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride & 0xFFFFFFFF)
        for axis, stride in enumerate(strides)
    ]
    return functools.reduce(lax.add, terms) if terms else jnp.zeros(shape, jnp.uint32)


def mixed(words: Any, position: Any) -> tuple[Any, Any]:
    """Two bijective mixes of each uint32 word, each with its own use of the position (numpy and jax alike).

    The finalizers are those of MurmurHash3 (Appleby) and lowbias32 (Wellons, "Prospecting for hash
    functions"); the position's factors are 2^32 over the golden ratio and lowbias32's first, both odd.
    """
    key = _lowbias32(
        position * np.uint32(0x9E3779B1) + np.uint32(0x85EBCA77)
    )  # scrambled: adjacent positions share no structure
    a = _murmur3(words ^ key)
    b = _lowbias32(words + position * np.uint32(0x7FEB352D) + np.uint32(0xC2B2AE3D))
    return a, b


def _murmur3(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _lowbias32(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def check_hashable(path: str, leaf: Any) -> None:
    """Refuse what has no bit pattern of whole bytes."""
    dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"'{path}' is a typed PRNG key; hash and save its jax.random.key_data, and wrap that on loading."
        )
    name = np.dtype(dtype).name
    if np.dtype(dtype).kind in "OSUMmc" or name in _NARROW:
        raise TypeError(
            f"'{path}' has dtype {name}, which has no hash: use booleans, integers or reals of 8 to 64 bits."
        )
