"""Talking to the models of a run."""
