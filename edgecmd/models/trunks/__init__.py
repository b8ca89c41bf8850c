"""What the students of the table are made of: convolutions, the stages of a pretrained network, strings."""
