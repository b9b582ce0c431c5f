"""Any source of images written once as array_record shards that TFDS and the tfds source read at random."""
