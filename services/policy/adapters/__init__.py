"""Where policy meets the world: the API server."""
