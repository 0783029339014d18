"""What `bench/run` consists of. Standard library only."""
