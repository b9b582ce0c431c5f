"""The process of the `mae_jax` command, which is also `python -m mae_jax`."""

import sys

from mae_jax.core import huge_pages

LONG = {"train", "finetune", "segment", "evaluate", "embed", "replay"}  # verbs that compute for minutes or more


def main() -> int:
    """Run the command line of this process; returns the exit status."""
    if LONG.intersection(sys.argv[1:2]):
        huge_pages.start_again()
    from mae_jax.commands.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
