"""The product: from a recording of a machine to a verdict. Imports nothing from `evaluation`."""
