"""The planner: decides which tensors go to which device. Performs no I/O."""
