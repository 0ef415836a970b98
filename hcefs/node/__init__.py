"""Composition roots: what a storage node and the ledger's process are made of."""
