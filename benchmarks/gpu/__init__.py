"""nf_zoo under JAX beside timm on PyTorch, on one GPU, within a time budget."""
