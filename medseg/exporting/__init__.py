"""A trained run -> a folder that other programs can use: graph, description, model card."""
