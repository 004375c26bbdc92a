"""One-shot secure aggregation with a decryption committee, and functional openings: pure, without policy."""
