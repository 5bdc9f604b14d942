"""Which cards hold Llama 3.1 8B in 4-bit at each length, and with how much KV cache: `.venv/dev/bin/python examples/choose_card.py`."""

from loadcheck.api import predict

CARDS = ("T4", "L4", "A10G", "A100-40GB", "H100")
LENGTHS = (512, 4096, 16384)
HOST_RAM_BYTES = 32 * 1024**3


def cell(card: str, length: int) -> str:
    """The KV cache in GiB if the load fits, else the first reason why not."""
    prediction = predict(gpu=card, settings={"max_seq_length": length}, ram_available_bytes=HOST_RAM_BYTES)
    if not prediction.fits:
        return "does not fit: " + prediction.obstacles[0].what
    kv_cache_bytes = prediction.figures.kv_cache_bytes or 0
    return f"{kv_cache_bytes / 1024**3:.2f} GiB for {prediction.figures.max_num_seqs} sequences"


if __name__ == "__main__":
    for name in CARDS:
        for tokens in LENGTHS:
            print(f"{name:10} {tokens:6} tokens  {cell(name, tokens)}")
