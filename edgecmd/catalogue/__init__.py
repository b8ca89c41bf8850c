"""Tables of text that every package may use: data sets and their files, baselines, strategies."""
