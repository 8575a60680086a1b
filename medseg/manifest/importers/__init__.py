"""Annotation files -> manifest.csv + dataset.yaml (+ derived masks), one file a format."""
