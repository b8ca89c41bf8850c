"""Steps 1 and 2: pretraining, distillation, and the folder of a run."""
