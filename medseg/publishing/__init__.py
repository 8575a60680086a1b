"""Scored cases -> the numbers one may publish: estimates with intervals, paired tests, tables. Reads folders, never pixels."""
