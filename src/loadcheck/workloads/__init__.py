"""What is done with a loaded model, and what it adds to the memory: training by SFT and by GRPO.

A training step is followed tensor by tensor: the upstream functions are written out here line by line on tensors that have a size and
no values (autograd, linear, fused, attention, layer, loss), and a ledger counts what torch's allocator holds after each line. The
largest moment is the peak; what is alive then, grouped by name, are its terms.
"""
