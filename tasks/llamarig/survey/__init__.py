"""From what a box reports to the declaration of its hardware, and to what differs from one; without I/O."""
