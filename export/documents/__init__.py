"""What lies beside the models in a bundle."""
