"""`medseg serve`: a model behind a documented HTTP API and a page. Nothing of an image is kept, written to disk or logged."""
