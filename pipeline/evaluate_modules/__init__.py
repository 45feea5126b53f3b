"""Modules for the `evaluate` library, one metric a file, loaded by path: `evaluate.load("<folder>/bbq.py")`."""
