"""Public sets as people have them on disk: a module for each layout makes an index, one reader reads it."""
