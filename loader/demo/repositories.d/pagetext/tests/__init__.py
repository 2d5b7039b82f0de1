"""Tests of pagetext. Run them with `python -m unittest`."""
