"""What is done with a loaded model, and what it adds to the memory: trainings, by whichever stack runs them."""
