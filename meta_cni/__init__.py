"""A meta CNI plugin: several networks for one pod, one result for the runtime."""

__version__ = "0.1.0"
