"""What every package builds on: errors, files, seeds, processes, text."""
