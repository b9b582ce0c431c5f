"""What `mae_jax new` copies, with "my_method" and "MyMethod" replaced; see commands/new.py."""
