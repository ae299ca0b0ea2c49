"""The config: strict models, the checks across their fields, and YAML."""
