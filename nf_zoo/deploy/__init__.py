"""Folding, quantization and export of models for other programs."""
