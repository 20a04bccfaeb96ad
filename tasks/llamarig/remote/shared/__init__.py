"""What the programs on the box share with each other and with the control machine."""
