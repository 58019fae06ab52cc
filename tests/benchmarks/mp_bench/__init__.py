"""The benchmark behind ``tests/benchmarks/run.py``: this library beside its peers, in one run, at equal recall."""
