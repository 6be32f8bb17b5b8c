"""Package steerd.v1: features, GenerationService, CatalogService."""
