"""The benchmark harness: see docs/BENCHMARKING.md."""
