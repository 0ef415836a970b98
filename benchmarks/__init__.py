"""Benchmarks: what the bytes must cost, what they do cost, and whether the goals hold.

Run through ``hcefs bench``; ``benchmarks/README.md`` says how to read the results.
"""
