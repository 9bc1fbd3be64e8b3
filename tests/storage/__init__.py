"""Storage, on a real database file and without the engine."""
