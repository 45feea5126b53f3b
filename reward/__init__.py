"""Text in, scores out: reward models and reward functions."""
