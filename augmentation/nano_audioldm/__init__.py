"""A small AudioLDM in AudioLDM's own format, trained from scratch on synthesised factory sounds."""
