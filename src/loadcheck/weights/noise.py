"""Values of synthetic weights: random, but such that logits stay finite and a few training steps lower the loss.

One block of noise is generated and written repeatedly, so the disk is the bottleneck. The same seed gives the same block on every machine.
"""

from __future__ import annotations

import random
from functools import cache

SEED = 35
"""Only the text of `nested_offset` depends on it, a number of 16 to 21 digits in each of the 224 quantization states of
Llama 3.1 8B: with this seed their total length is that of the real file, so that the two files have the same size."""
NOISE_BYTES = 1_048_573
"""Length of a block of noise: a prime, so that the rows of a matrix begin at different offsets."""


@cache
def nf4_noise() -> bytes:
    """Random bytes, each a pair of NF4 codes, with a mean of about 0.

    The mean of all 16 levels is 0.024, and a matrix with a nonzero mean drives all activations to the same vector, layer after layer.
    With level 11 (0.338) replaced by level 7 (0), it is 0.002.
    """
    codes = [7 if code == 11 else code for code in range(16)]
    pairs = bytes(codes[byte >> 4] << 4 | codes[byte & 15] for byte in range(256))
    return random.Random(SEED).randbytes(NOISE_BYTES).translate(pairs)


@cache
def bfloat16_noise() -> bytes:
    """Random bfloat16 numbers of either sign with magnitudes from 2**-7 to 2**-5: a standard deviation of 0.019."""
    # The high byte has the sign, and an exponent whose last bit is in the low byte.
    signs = bytes(byte & 0x80 | 0x3C for byte in range(256))
    noise = bytearray(2 * NOISE_BYTES)
    noise[0::2] = random.Random(SEED + 1).randbytes(NOISE_BYTES)
    noise[1::2] = random.Random(SEED + 2).randbytes(NOISE_BYTES).translate(signs)
    return bytes(noise)
