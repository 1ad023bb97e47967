"""Inference and training, side by side with timm and keras.applications, in one run."""
