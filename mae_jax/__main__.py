"""`python -m mae_jax` is the `mae_jax` command."""

import sys

from mae_jax.commands.main import main

sys.exit(main())
