"""Step 3: what a student is worth."""
