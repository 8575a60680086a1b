"""The mask doctor: what is wrong with a data set, said in words, and what of it can be repaired."""
