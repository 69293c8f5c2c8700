"""pipelines.yaml → a typed graph: grammar, variants, signatures read from source, JSON Schema."""
