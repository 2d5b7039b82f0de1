"""The suite of calculator: `python -m unittest` at the root runs it."""
