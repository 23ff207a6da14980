"""Benchmarks of onepass against its peers: ``python -m benchmarks --help``."""
