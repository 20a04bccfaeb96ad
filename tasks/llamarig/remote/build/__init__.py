"""Builds llama.cpp releases on the box, and passes them on to others."""
