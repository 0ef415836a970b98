"""The plaintext data path: sealing and opening, with keys that live inside one request."""
