"""Stages of a recipe, one per file; a name in YAML is a file name here."""
