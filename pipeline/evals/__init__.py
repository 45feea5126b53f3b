"""Evaluations, one per file."""
