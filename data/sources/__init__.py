"""Data sets, one per file; a name in YAML is a file name here."""
