"""Small stages that stand in for the real ones: no torch, a step takes a set time."""
