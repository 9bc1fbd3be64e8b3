"""Examples that run: `python -m sqlsched.examples.first_steps`."""
