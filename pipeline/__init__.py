"""Everything that runs: recipes, stages, training, evaluation, chat and report."""
