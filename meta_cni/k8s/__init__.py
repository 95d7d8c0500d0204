"""Kubernetes objects as plain dicts, wherever they are stored."""
