"""Level L3: many runs on a worst-case pair."""
