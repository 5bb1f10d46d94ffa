"""Decisions about ENIs, addresses and wiring: pure, synchronous, without I/O."""
