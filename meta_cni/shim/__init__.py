"""What the runtime executes: shim.c, and shim.py where there was no compiler."""
