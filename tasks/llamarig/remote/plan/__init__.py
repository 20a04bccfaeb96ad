"""Programs that the planner runs on the box: dry runs, and the headers of model files."""
