"""What trains on labels to judge or to use an encoder: probes with optimizers, fine-tuning, segmentation."""
