"""xbatch against its peers on the same engine: `python -m benchmarks.peers --help`, or `make bench`."""
