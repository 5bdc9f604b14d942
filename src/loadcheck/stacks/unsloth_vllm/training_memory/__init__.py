"""The memory of a training by this stack: SFT and GRPO, tensor by tensor.

The upstream functions are reproduced line by line on tensors that have a size but no values (autograd, linear, fused, attention, layer,
loss), and a ledger tracks what torch's allocator holds after each line. The largest total is the peak; its terms are the tensors alive
then, grouped by name.
"""
