"""The spec: untrusted YAML or JSON in, checked values out."""
