"""Benchmarks: each is `python -m benchmarks.bench_NAME [--quick] [--out DIR]`."""
