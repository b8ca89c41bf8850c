"""A comparison of methods: presets, methods, federations, tuning, tables and verdict; it trains nothing."""
