"""Upkeep: what nodes do without being asked.  Ciphertext and rows only, never keys."""
