"""The paper's networks, losses and trainings. Knows no DVC, no params.yaml, no folder layout."""
