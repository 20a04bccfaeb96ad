"""One @deploy per room of the house, and what a user runs by name."""
