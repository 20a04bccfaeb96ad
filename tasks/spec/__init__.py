"""What an owner may declare about a box; validated before any connection is made."""
