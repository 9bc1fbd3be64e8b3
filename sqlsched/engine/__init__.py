"""The engine: reads the clock, claims what is due, dispatches it, and waits."""
