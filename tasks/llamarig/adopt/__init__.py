"""From a llama-server that somebody starts in another way (script, unit, container) to its declaration. No I/O."""
