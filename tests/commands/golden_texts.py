"""What each config means, as text: the resolved config, and every parameter with its shape, sharding and decay.

    python tests/commands/golden_texts.py

writes tests/golden/texts/; test_configs.py compares, so that a change of meaning is seen in review.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "tests" / "golden" / "texts"
OVERRIDES = dict.fromkeys(
    ("folder", "video", "points", "cifar10", "cifar100", "stl10", "imagenette"), ("data.path=/data/images",)
)  # what a config of a source leaves to its user


def configs() -> list[Path]:
    """The config files, relative to the root."""
    return sorted(p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.py") if not p.name.startswith("_"))


def path_of(config: Path) -> Path:
    """Where a config's text lies: configs/mae/x.py -> texts/mae_x.txt."""
    return TEXTS / ("_".join(config.relative_to("configs").with_suffix("").parts) + ".txt")


def golden_text(config: Path) -> str:
    """The text of a config file (relative to the root). Touches no device beyond evaluating shapes."""
    import jax

    from mae_jax.config import load, make_method, resolve
    from mae_jax.core import tree
    from mae_jax.core.mesh import RULES
    from mae_jax.train.build import sample_batch
    from mae_jax.train.optimizers import decay_multipliers, make_optimizer

    raw, _ = load(str(ROOT / config))
    resolved = resolve(raw, OVERRIDES.get(raw["data"]["source"], ()))
    method = make_method(resolved)
    params, stats = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    make_optimizer(resolved.optim, params)
    shapes = tree.flatten(params)
    sharding = tree.match(RULES, shapes, "sharding rule")
    decay = decay_multipliers(params, resolved.optim.decay_rules)
    rows = {p: f"{_shape(s.shape)}  {s.dtype}  {sharding[p]}  decay {decay[p]:g}" for p, s in shapes.items()}
    wide, sections = max(map(len, rows)), resolved.to_dict()
    if resolved.transfer.task == "none":
        del sections["transfer"]  # a pretraining run reads nothing of it
    return "\n".join(
        [
            f"# {config}: resolved",
            *(f"{name}.{key} = {json.dumps(value)}" for name, keys in sections.items() for key, value in keys.items()),
            "",
            f"# {tree.size(params):,} parameters, {tree.size(stats):,} statistics: shape, sharding rule, weight decay",
            *(f"{path:<{wide}}  {text}" for path, text in collapse(rows).items()),
            "",
        ]
    )


def collapse(rows: dict[str, str]) -> dict[str, str]:
    """Leave blocks out that say the same as block 0, and say so in one line."""
    blocks: dict[str, dict[int, dict[str, str]]] = {}
    for path, text in rows.items():
        if found := re.search(r"^(.*?blocks)/(\d+)/(.*)$", path):
            blocks.setdefault(found[1], {}).setdefault(int(found[2]), {})[found[3]] = text
    kept = dict(rows)
    for stack, layers in blocks.items():
        same = sorted(i for i in layers if i and layers[i] == layers[0])
        for i in same:
            for path in layers[i]:
                del kept[f"{stack}/{i}/{path}"]
        if same:
            kept[f"{stack}/[{', '.join(map(str, same))}]"] = f"{len(same)} more, each as {stack}/0"
    return dict(sorted(kept.items()))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


if __name__ == "__main__":
    TEXTS.mkdir(parents=True, exist_ok=True)
    for config in configs():
        path_of(config).write_text(golden_text(config))
        print(path_of(config).relative_to(ROOT))
