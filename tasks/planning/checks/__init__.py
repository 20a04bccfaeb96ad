"""What a box is checked for: each check a small class, pure over the box's facts. Listing them documents them."""
