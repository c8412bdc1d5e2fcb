"""Each benchmark runs at a tiny size, so that it cannot rot."""
