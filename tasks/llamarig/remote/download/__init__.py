"""Downloads model files from the Hub to the box."""
