"""What the ledger tells a person: why something ran or did not, charts, the live view. Pure."""
