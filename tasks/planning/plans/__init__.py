"""Placement by dry runs: which layers go where, decided by what the release that will serve says it would take."""
