"""Measurements that take longer than tests may, run as `python -m benchmarks.NAME`."""
