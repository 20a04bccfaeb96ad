"""One file for each thing that a deploy converges."""
