"""The daemon: one process that serves every call of a node."""
