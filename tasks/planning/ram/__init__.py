"""What a box's memory modules are, what they are rated for, and what they really run at."""
