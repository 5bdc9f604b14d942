"""What judging is made of: findings, the evidence that they are about, and what a stack must know for them."""
