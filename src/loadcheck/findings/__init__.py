"""The building blocks of judging: findings, the evidence that they are about, and what a stack must provide for them."""
