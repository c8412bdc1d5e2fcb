"""Waveforms: reading and writing clips, clip names and manifests, log-mel spectrograms, synthetic machines."""
