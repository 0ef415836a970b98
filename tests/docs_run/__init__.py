"""The documents' commands: all are read, those in ``sh`` and ``python`` fences are executed."""
