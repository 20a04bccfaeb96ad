"""Pure functions: declarations and facts in, what should be on the box out. No I/O, no pyinfra."""
