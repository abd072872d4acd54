"""What a run reads in which epoch: orders of the clips, and data sets that grow."""
