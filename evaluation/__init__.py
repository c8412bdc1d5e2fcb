"""AUC and friends, scoring back-ends, references, thresholds, plots."""
