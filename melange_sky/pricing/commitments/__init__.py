"""What clouds sell for a promised term: read, dated, kept, held against on demand. Start at `load.load_commitments`."""
