"""From a `config.json` to a list of layers, for every family that is read."""
