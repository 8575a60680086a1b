"""A trained network out of its run: one graph, one JSON, and what brings a photograph to it and back. Nothing here needs torch."""
