"""Published benchmarks, one per file: typed items from local files or the hub."""
