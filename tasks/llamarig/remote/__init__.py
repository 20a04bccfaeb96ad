"""Programs that run on the box, with Python 3.9 or newer.

They import nothing but each other and the standard library; those in download/ run in the virtual environment of
items/locks/hub-requirements.txt. The control machine uses shared/ too.
"""
