"""A package, so that the tests share the helpers of conftest.py by a relative import."""
