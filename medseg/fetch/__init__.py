"""Public data sets: what there is, fetched, verified and unpacked."""
