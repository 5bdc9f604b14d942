"""The memory of a training by this stack: SFT and GRPO, tensor by tensor.

The upstream functions are written out here line by line on tensors that have a size and no values (autograd, linear, fused, attention,
layer, loss), and a ledger counts what torch's allocator holds after each line. The largest moment is the peak; what is alive then, grouped by
name, are its terms.
"""
