"""Tables of words, which every room may ask: data sets and their files, baselines, strategies."""
