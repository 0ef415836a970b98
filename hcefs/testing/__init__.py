"""Test tools as a product: a small cluster in one process, with faults on command."""
