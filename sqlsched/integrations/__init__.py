"""The other way round: what other schedulers can serve of ours."""
