"""What `mae_jax.load` gives (api.py): images of any kind in, arrays out; and the embedding of whole data sets."""
