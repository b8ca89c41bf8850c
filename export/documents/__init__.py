"""The files beside the models in a bundle."""
