"""Work on many machines: units of it are spread over a Ray cluster. Knows nothing of sound and networks."""
