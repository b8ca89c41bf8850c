"""The three sets of an experiment, how they are read, split and partitioned."""
