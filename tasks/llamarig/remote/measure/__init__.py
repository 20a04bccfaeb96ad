"""Measurements of served models: the comparison of two, and the replay of a workload."""
