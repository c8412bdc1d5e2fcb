"""Torch: networks, losses, diffusion, training loops. Knows no DVC, no params.yaml, no folder layout."""
