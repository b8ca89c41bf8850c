"""Ways to train a student without a federation: in one place, from public images, by SimCLR."""
