"""Modules that are imported by names of another runtime: what is in this folder is found at the top."""
