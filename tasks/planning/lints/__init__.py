"""What is declared and allowed, and yet probably not meant: each with its consequence and how to accept it."""
