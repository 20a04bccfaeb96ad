"""Lints: declarations that are valid but probably a mistake."""
