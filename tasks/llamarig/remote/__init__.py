"""Programs that run on the box. They import nothing but each other and the standard library."""
