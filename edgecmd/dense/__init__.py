"""Segmentation: an embedding for each place of a picture instead of one for the whole."""
