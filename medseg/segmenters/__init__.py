"""What segments one file: a network with published weights, runs of one's own, an export; on photographs or on volumes."""
