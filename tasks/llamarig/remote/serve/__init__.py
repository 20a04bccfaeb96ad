"""Programs that start, switch, probe and time the model servers of a box."""
