"""mae_jax as a library: `model = mae_jax.load(path)`, then encode, look at attention, reconstruct, classify.

import mae_jax

model = mae_jax.load("runs/digits")
features = model.encode(images).pooled()
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import use_mesh
from mae_jax.core.types import Features
from mae_jax.eval.features import check_pool
from mae_jax.eval.features import pool as pool_
from mae_jax.eval.pictures import COLUMNS, denormalise
from mae_jax.library.images import Images, Input, Size, sized
from mae_jax.library.results import Attention, Classification, Encoding, Reconstruction
from mae_jax.nets.attention import record
from mae_jax.train import inputs
from mae_jax.train.build import resized
from mae_jax.weights import heads
from mae_jax.weights.opened import Opened, opened
from mae_jax.weights.uses import check_use


def load(
    source: str | os.PathLike[str],
    *,
    file: str | os.PathLike[str] | None = None,
    step: int | None = None,
    average: bool = False,
    overrides: Sequence[str] = (),
) -> "Model":
    """Open weights for use.

    Args:
      source: the workdir of a run; a weights file; a folder or file published elsewhere; the catalogue name of a
        released file, which `file` then points to. docs/library.md says what can be done with which.
      step: of a workdir's checkpoints; by default the newest good one.
      average: take the running average of the weights (optim.average) in the place of the last ones.
      overrides: changes to the config, as "train.precision=bfloat16" or "augment.mean=(0.5,)".

    Returns: a `Model` on all devices of this process.

    Raises:
      UserError: nothing there, weights that do not fit, no average.
    """
    if jax.process_count() > 1:
        raise UserError("mae_jax.load works in one process, with all its devices; start it without jax.distributed.")
    found = opened(source, overrides, file=None if file is None else str(file), step=step)
    if average:
        if "average" not in found.state["ema"]:
            raise UserError(f"'{source}' holds no average of the weights (optim.average=0 in its run).")
        found.state["params"] = found.state["ema"]["average"]
    return Model(found)


class Model:
    """Weights that are ready for use, on all devices of this process.

    Images may be one or many, as NumPy or JAX arrays [h, w, c] or [n, h, w, c] (uint8, uint16, or float in [0, 1]), PIL
    images, paths, encoded bytes, or lists of these of any sizes. They are prepared as for the run's evaluation: resized
    so that they just cover the network's input / 0.875, cropped in the middle (an image of exactly that size stays as
    it is), and normalised by augment.mean and augment.std. With `preprocess=False` an array [n, h, w, c] goes into the
    network as it is. Methods that read something else take that: videos as paths, arrays [t, h, w, c] or
    [n, t, h, w, c], or lists of these; several things as {name: array [n, ...]}.

    Attributes:
      config: of the run, resolved.
      method: what was pretrained.
      info: where the weights come from: "kind", "source", "licence", "norm_pix", "step", ...
    """

    def __init__(self, found: Opened):
        self._opened, self._run = found, found.run
        self.config, self.method, self.info = found.config, found.run.method, found.weights.info
        self.params = found.state["params"]
        self._jitted: dict[Any, Callable] = {}
        if not all(leaf.batched for leaf in self.method.batch_spec.values()):
            raise UserError(f"'{self.method.name}' reads one large graph; use `mae_jax evaluate`, or Method.encode.")

    def __repr__(self) -> str:
        reads = ", ".join(f"{name} {'x'.join(map(str, s.shape))}" for name, s in self.method.batch_spec.items())
        can = "encode, attention" + ", reconstruct" * self._whole + ", classify" * bool(self.classes)
        size = f"{tree.size(self.params):,} parameters"
        return f"<mae_jax.Model {self.method.name}, {size} from {self.info.get('source')}; reads {reads}; can {can}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the head's classes, () without a head."""
        head = self._opened.weights.head
        if head is None:
            return ()
        about = self.info.get("head") or {}
        named = about.get("names") or about.get("classes") or None
        count = heads.count(head)
        return tuple(map(str, named)) if isinstance(named, list | tuple) else tuple(map(str, range(count)))

    @property
    def _whole(self) -> bool:
        return self._opened.weights.kind == "pretraining"

    def encode(self, images: Input, *, size: Size | None = None, preprocess: bool = True, batch: int = 64) -> Encoding:
        """Features of images without masking.

        Args:
          size: another input size, one number or (rows, columns), that the patch divides; positions follow.
          batch: images at a time.

        Raises:
          UserError: images that cannot be read or do not fit, by name.
        """

        encode = lambda params, rest, x, rows: _plain(self.method.encode(params, rest, x))
        out = self._over("encode", encode, images, size, preprocess, batch)
        return Encoding(**out | {"grid": _grid(out)})

    def embed(
        self, images: Input, pool: str = "mean", *, size: Size | None = None, preprocess: bool = True, batch: int = 64
    ) -> np.ndarray:
        """`encode(images).pooled(pool)` for many images: only the vectors [n, dim] leave the devices."""
        check_pool(pool)
        encode = lambda params, rest, x, rows: pool_(self.method.encode(params, rest, x), pool)
        return self._over(("embed", pool), encode, images, size, preprocess, batch)

    def attention(
        self, images: Input, *, size: Size | None = None, preprocess: bool = True, batch: int = 16
    ) -> Attention:
        """Attention weights of every block, for images without masking.

        Raises:
          UserError: as `encode`; an encoder without self-attention.
        """
        compute: Any = dataclasses.replace(self.method.compute, scan=False, remat="none")
        method = dataclasses.replace(self.method, compute=compute)

        def attend(params, rest, x, rows):
            with record() as maps:
                features = _plain(method.encode(params, rest, x))
            return tuple(maps), {name: features[name] for name in ("prefix", "grid")}

        maps, features = self._over("attention", attend, images, size, preprocess, batch)
        if not maps:
            raise UserError(f"the encoder of '{self.method.name}' has no self-attention to show.")
        return Attention(maps, features["prefix"].shape[1], _grid(features))

    def reconstruct(
        self,
        images: Input,
        mask: Any = None,
        mask_ratio: float | None = None,
        seed: int = 0,
        *,
        size: Size | None = None,
        preprocess: bool = True,
        batch: int = 64,
    ) -> Reconstruction:
        """Hide a part of each image and predict it.

        Args:
          mask: which patches to hide (True): [patches], [rows, columns], or one such per image; equally many in each.
            None: drawn by the method.
          mask_ratio: share of hidden patches, for methods with such a field; None: as in training.
          seed: of the drawn masks. An image's mask depends on the seed and on its number alone.

        Raises:
          UserError: weights of an encoder alone; a mask that the method cannot take; as `encode`.
        """
        if not self._whole:
            what = "a classifier" if self.classes else "an encoder alone"
            raise UserError(
                f"these weights ({self.info.get('source')}) are {what} and cannot "
                f"reconstruct: that takes a checkpoint of pretraining with its decoder."
            )
        check_use(self._opened.weights, "reconstruct")
        method: Any = self.method if size is None else resized(self.method, size)  # type: ignore[arg-type]
        n = int(np.prod(getattr(method, "grid", (0,))))
        hidden = None if mask is None else _mask(mask, n)
        if hidden is not None:
            if mask_ratio is not None:
                raise UserError("mask= says what is hidden, so mask_ratio= has nothing left to say: give one of both.")
            mask_ratio = 1 - (n - int(hidden[0].sum()) + 0.5) / n  # keeps exactly the others, once truncated
        if mask_ratio is not None:
            method = _with_ratio(method, mask_ratio)
        steps = self.config.train.steps

        def reconstruct(params, rest, x, rows, wanted=None):
            given = None if wanted is None else {"mask": wanted.astype(jnp.float32)}
            key = jax.random.key(seed)
            ctx = Context(key, 0, rows, plan=method.plan(0), train=False, steps=steps, given=given)
            _, aux = method.loss(params, rest, x, ctx)
            return aux.seen, method.pictures(aux.seen, x)

        own_way = f"'{method.name}' draws its masks in its own way and takes no mask="
        try:
            seen, drawn = self._over(
                ("reconstruct", method, seed, hidden is None), reconstruct, images, size, preprocess, batch, hidden,
                self._run.frozen,
            )  # fmt: skip
        except ValueError as error:
            if hidden is None or "given 'mask'" not in str(error):
                raise
            raise UserError(f"{own_way}: {error}.") from None
        if hidden is not None and not ("hidden" in seen and (seen["hidden"] == hidden).all()):
            raise UserError(f"{own_way}.")
        if not drawn:
            raise UserError(f"the method '{method.name}' predicts nothing that can be drawn as an image.")
        order = sorted(drawn, key=lambda name: [*COLUMNS, name].index(name))  # jit has sorted them by name
        pictures = {name: self._colours(drawn[name]) for name in order}
        return Reconstruction(pictures, seen.get("hidden"), seen.get("pred"), seen)

    def classify(
        self, images: Input, *, size: Size | None = None, preprocess: bool = True, batch: int = 64
    ) -> Classification:
        """Class scores, where the weights have a head (fine-tuned, or published classifiers).

        Raises:
          UserError: no head; as `encode`.
        """
        head = self._opened.weights.head
        if head is None:
            raise UserError(
                f"these weights ({self.info.get('source')}) have no classifier's head: fine-tune them "
                f"(`mae_jax finetune`), or probe the features of `encode`."
            )
        about, eps = self.info.get("head") or {}, getattr(self.method, "norm_eps", 1e-6)
        how = about.get("pool", "mean")

        def classify(params, rest, x, rows):
            return heads.logits(self.method.encode(params, rest, x), head, how, eps)

        logits = self._over("classify", classify, images, size, preprocess, batch)
        share = (
            jax.nn.sigmoid if about.get("multilabel") else jax.nn.softmax
        )  # softmax: along the classes, the last axis
        return Classification(logits, np.asarray(share(jnp.asarray(logits))), self.classes)

    def _colours(self, picture: np.ndarray) -> np.ndarray:
        mean, std = self._run.colours
        return denormalise(picture, *((mean, std) if picture.shape[-1] == len(mean) else ((0.0,), (1.0,))))

    def _over(
        self, key: Any, function: Callable, images: Input, size: Size | None, preprocess: bool, batch: int,
        mask: np.ndarray | None = None, frozen: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """function(params, rest, batch, rows, *mask) of all images, a few at a time on all devices; joined, float32."""
        run, augment = self._run, self._run.config.augment
        spec = dict(self.method.batch_spec) if size is None else sized(self.method, self.method.batch_spec, size)
        given = Images(images, spec, augment, preprocess)
        n = len(given)
        if batch < 1 or not n:
            raise UserError(f"{n} image(s), {batch} at a time: at least 1 of both expected.")
        if mask is not None and len(mask) not in (1, n):
            raise UserError(f"mask= has {len(mask)} rows for {n} image(s): one for all, or one for each.")
        devices = run.mesh.size
        batch = -(-min(batch, 1 << (n - 1).bit_length()) // devices) * devices  # few sizes: each compiles once
        state = self._opened.state
        rest = {"stats": state["stats"], "ema": state["ema"]["teacher"], "frozen": frozen or {}}
        key = key, tuple(sorted((name, leaf.shape) for name, leaf in spec.items())), preprocess
        if key not in self._jitted:
            prepare = lambda x: inputs.on_device(spec, augment, x, None) if preprocess else x
            self._jitted[key] = jax.jit(lambda p, r, x, *more: function(p, r, prepare(x), *more))
        found: list[Any] = []
        waiting: Any = None
        for start in range(0, n, batch):
            rows = np.arange(start, start + batch)
            here = np.minimum(rows, n - 1)
            placed = {name: run.place(name, x) for name, x in given.rows(here).items()}
            more = [rows.astype(np.int32)]
            more += [] if mask is None else [mask[here if len(mask) > 1 else np.zeros_like(here)]]
            with use_mesh(run.mesh):
                out = self._jitted[key](self.params, rest, placed, *(run.place("image", x) for x in more))
            if waiting is not None:  # one batch is computed while the last one is fetched
                found.append(_fetched(waiting))
            waiting = out
        found.append(_fetched(waiting))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *found)


def _fetched(out: Any) -> Any:
    floats = lambda x: x.astype(np.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(lambda x: floats(np.asarray(x)), jax.device_get(out))


def _plain(f: Features) -> dict[str, Any]:
    """The fields of an `Encoding`; the grid once per row, since only arrays leave a jitted function."""
    grid = jnp.tile(jnp.asarray(f.grid, jnp.int32)[None], (f.tokens.shape[0], 1))
    return {
        "tokens": f.tokens,
        "normed": f.normed,
        "prefix": f.prefix,
        "grid": grid,
        "valid": f.valid,
        "parts": f.parts,
    }


def _grid(out: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in out["grid"][0])


def _mask(mask: Any, n: int) -> np.ndarray:
    """bool [b, n] of a mask as a user gives it."""
    hidden = np.asarray(mask)
    if not n:
        raise UserError("mask= needs patches on a grid, and this method has none.")
    if hidden.dtype != bool and not np.isin(hidden, (0, 1)).all():
        raise UserError(f"mask= holds {hidden.dtype} other than 0 and 1; True (1) means hidden.")
    if hidden.size % n or not hidden.size:
        raise UserError(f"mask= of shape {hidden.shape} is no mask, or masks, of {n} patches.")
    hidden = hidden.astype(bool).reshape(-1, n)
    counts = hidden.sum(axis=1)
    if (counts != counts[0]).any() or not 0 < counts[0] < n:
        raise UserError(
            f"mask= hides {sorted({int(c) for c in counts})[:5]} of {n} patches: equally many in each image, at least "
            f"1 and at most {n - 1}. Call it once per number."
        )
    return hidden


def _with_ratio(method: Any, ratio: float) -> Any:
    """The method with another share of hidden patches, checked."""
    if "mask_ratio" not in {field.name for field in dataclasses.fields(method)}:
        raise UserError(f"'{method.name}' has no mask_ratio: it can be asked for masks of its own alone.")
    other = dataclasses.replace(method, mask_ratio=float(ratio))
    other.check()
    return other
