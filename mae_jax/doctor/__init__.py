"""What `mae_jax doctor` looks at: machine.py, devices.py, a run by its config (run.py), what hosts must agree on."""
