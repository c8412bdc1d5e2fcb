"""Systems that the project's own scores are compared with."""
