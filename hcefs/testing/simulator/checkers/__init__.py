"""What watches a run from outside; each checker believes disks and receipts, never a node."""
