"""Drawn tongue photographs whose truth is known to the pixel: the data of the demo, the tests and the first benchmark."""
