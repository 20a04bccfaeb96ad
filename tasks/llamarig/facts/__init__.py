"""Facts: what a box reports about itself. Each is a shell command, an example of its output, and a typed result.

A fact neither raises nor decides: output that is missing, truncated or in another form becomes an empty or unknown
value, and whether a value is right is up to `items` and `checks`.
"""
