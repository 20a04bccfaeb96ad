"""Rendering: declarations to command lines, unit files, CMake definitions and presets."""
