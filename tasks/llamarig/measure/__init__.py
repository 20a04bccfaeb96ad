"""Tuning: which settings are tried on a box, and what the measurements say. Pure."""
