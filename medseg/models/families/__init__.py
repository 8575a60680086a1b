"""One module a library: `build(config, task) -> Network`, `ENTRIES` for `medseg zoo`, and where there are published weights
`published(config, spec, task) -> Source`. A module is imported when one of its networks is asked for, since some take seconds."""
