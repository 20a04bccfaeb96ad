"""One address for all models of a box: the service that chooses the model, and the helper that starts its unit."""
