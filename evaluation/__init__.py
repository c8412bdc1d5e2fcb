"""Figures about scores: AUC and friends, intervals, tables, and the report."""
