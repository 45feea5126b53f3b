"""Built-in recipes: one YAML file is one run."""
