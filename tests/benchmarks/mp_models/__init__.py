"""The benchmark behind ``tests/benchmarks/pyramid.py``: Magic Pyramid beside BERT on trained models, in one run."""
