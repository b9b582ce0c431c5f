"""Checks that a method of anybody's can be held to: conformance.py, by name or as one table."""
