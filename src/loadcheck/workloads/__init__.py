"""What can be done with a loaded model, and the memory that it adds: trainings, by whichever stack runs them."""
