"""Files and folders that appear whole or not at all, and the content store outside DVC's outputs."""
