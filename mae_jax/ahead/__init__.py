"""What a train step will need, said before it runs: compiled ahead of time for devices that need not be there."""
