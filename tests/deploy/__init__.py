"""What `deploy/` holds, checked with the tools that will read it."""
