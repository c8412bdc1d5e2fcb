"""One module per DVC stage (``python -m stages.<name>``), plus what only stages share."""
