"""The ciphertext data path: stripes, shards and manifests.  No keys, no plaintext."""
