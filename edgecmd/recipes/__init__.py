"""Ways to train a student beside a federation: in one place, from public pictures, by SimCLR."""
