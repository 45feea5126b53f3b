"""How published benchmarks are scored: pure functions over plain columns, one file a benchmark."""
