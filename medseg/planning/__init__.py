"""A data set's fingerprint, and the experiment that nnU-Net's published rules make of it (Isensee et al., Nature Methods 2021).

fingerprint -> propose -> write            what is measured; each value with its reason; the YAML
               rules, topology, memory     what `propose` asks: pure rules, patches, what a step takes
"""
