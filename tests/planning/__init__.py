"""A package, because other folders of tests have a test_rules.py, too."""
