"""Checkpoints with random weights, with the layout of real ones, to the byte."""

import json
import math
import shutil
import statistics
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from loadcheck.errors import BadInput, UnsupportedMachine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.specs.hf_config import config_from_hf
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.weights import noise, safetensors_file, small_files, synthetic, synthetic_tensors

NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def tiny(**changes) -> ModelConfig:
    return config_from_hf({**TINY, "quantization_config": NF4, **changes}, "tiny")


def plan_of(folder: Path, **changes) -> LoadPlan:
    """A plan for a model that is only a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**TINY, "quantization_config": NF4, **changes}))
    return make_plan(load_profile("smollm2-135m-cpu", {"model": str(folder), "weights": "synthetic"}))


def shapes(config: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.dtype, tensor.shape) for tensor in synthetic_tensors.checkpoint_tensors(config)}


def read_safetensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """The file by its documented format: each tensor's dtype, shape and bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    assert entries.pop("__metadata__") == {"format": "pt"}
    body = data[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in entries.items()
    }


def test_llama_31_8b_has_the_size_of_the_real_file():
    """The NF4 checkpoint of Llama 3.1 8B has the size of the real model.safetensors, to the byte."""
    config = make_plan(load_profile("llama31-8b-instruct-4bit", {"weights": "synthetic"})).config
    tensors = synthetic_tensors.checkpoint_tensors(config)
    assert len(tensors) == 1_411
    assert sum(tensor.num_bytes for tensor in tensors) == 5_702_577_939
    assert safetensors_file.file_bytes(tensors) == 5_702_746_371


def test_nf4_linear_has_the_six_tensors_of_bitsandbytes():
    """A linear whose elements do not fill the last blocks still has these blocks."""
    linear = {name: shape for name, shape in shapes(tiny()).items() if name.startswith("model.layers.1.mlp.down_proj.")}
    prefix = "model.layers.1.mlp.down_proj.weight"
    state_bytes = linear.pop(f"{prefix}.quant_state.bitsandbytes__nf4")[1][0]
    assert 150 < state_bytes < 190
    assert linear == {
        prefix: ("U8", (24 * 40 // 2, 1)),
        f"{prefix}.absmax": ("U8", (15,)),
        f"{prefix}.nested_absmax": ("F32", (1,)),
        f"{prefix}.nested_quant_map": ("F32", (256,)),
        f"{prefix}.quant_map": ("F32", (16,)),
    }


def test_head_dim_need_not_be_hidden_over_heads():
    """The attention's linears follow head_dim, not hidden_size."""
    found = shapes(tiny(quantization_config=None))
    assert found["model.layers.0.self_attn.q_proj.weight"] == ("BF16", (48, 24))
    assert found["model.layers.0.self_attn.v_proj.weight"] == ("BF16", (16, 24))
    assert found["model.layers.0.self_attn.o_proj.weight"] == ("BF16", (24, 48))


def test_tied_model_has_no_lm_head():
    """With tied embeddings the file holds them once."""
    assert "lm_head.weight" in shapes(tiny())
    assert "lm_head.weight" not in shapes(tiny(tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, {"q_proj", "k_proj", "v_proj"}),
        ({"model_type": "mistral"}, set()),
        ({"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_linears_have_the_biases_of_the_config(changes: dict, biased: set[str]):
    """qwen2 has a bias on q, k and v; llama has those that its config enables; mistral has none."""
    assert {name.split(".")[-2] for name in shapes(tiny(**changes)) if name.endswith(".bias")} == biased


@pytest.mark.parametrize("quantization_config", [NF4, None])
def test_written_file_is_the_documented_format(tmp_path: Path, quantization_config: dict | None):
    """Each tensor is where the header says, with its length, and nothing follows the last."""
    tensors = synthetic_tensors.checkpoint_tensors(tiny(quantization_config=quantization_config))
    path = tmp_path / "model.safetensors"
    safetensors_file.write_safetensors(path, tensors)
    found = read_safetensors(path)
    assert path.stat().st_size == safetensors_file.file_bytes(tensors)
    assert len(safetensors_file.header(tensors)) % 8 == 0
    assert [*found] == [tensor.name for tensor in tensors]
    for tensor in tensors:
        dtype, shape, data = found[tensor.name]
        assert (dtype, tuple(shape), len(data)) == (tensor.dtype, tensor.shape, tensor.num_bytes)


def test_tokens_beyond_the_tokenizer_have_zero_rows(tmp_path: Path):
    """Tokens outside the tokenizer have logit 0, so greedy answers stay inside."""
    path = tmp_path / "model.safetensors"
    safetensors_file.write_safetensors(path, synthetic_tensors.checkpoint_tensors(tiny()))
    _, (vocab, hidden), data = read_safetensors(path)["lm_head.weight"]
    rows = [data[2 * hidden * row : 2 * hidden * (row + 1)] for row in range(vocab)]
    assert all(any(row) for row in rows[: small_files.NUM_TOKENS])
    assert not any(any(row) for row in rows[small_files.NUM_TOKENS :])


def test_quantization_state_is_what_bitsandbytes_reads(tmp_path: Path):
    """The packed state has the linear's shape, and an offset that keeps every absmax positive."""
    path = tmp_path / "model.safetensors"
    safetensors_file.write_safetensors(path, synthetic_tensors.checkpoint_tensors(tiny()))
    state = json.loads(
        read_safetensors(path)["model.layers.0.self_attn.k_proj.weight.quant_state.bitsandbytes__nf4"][2]
    )
    offset = state.pop("nested_offset")
    assert offset > synthetic_tensors.NESTED_ABSMAX
    assert state == {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [16, 24],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
    }


def test_weights_are_distributed_like_trained_ones():
    """Dequantized weights have a mean near 0 and a standard deviation near 0.02, in NF4 and in bfloat16."""
    block = noise.nf4_noise()
    counts = {byte: block.count(byte) for byte in range(256)}
    absmax = statistics.mean(synthetic_tensors.NESTED_OFFSETS)
    pairs = [(synthetic_tensors.NF4_LEVELS[byte >> 4] * absmax, count) for byte, count in counts.items()]
    mean = sum(value * count for value, count in pairs) / len(block)
    spread = math.sqrt(sum(value**2 * count for value, count in pairs) / len(block))
    assert abs(mean) < 0.0002
    assert 0.018 < spread < 0.022

    words = struct.unpack("<4096H", noise.bfloat16_noise()[:8192])
    floats = [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
    assert {value < 0 for value in floats} == {True, False}
    assert 2**-7 <= min(map(abs, floats)) <= max(map(abs, floats)) < 2**-5
    assert 0.018 < statistics.pstdev(floats) < 0.022


@pytest.mark.parametrize(
    ("model_name", "quantization", "name"),
    [
        ("llama-3.1-8b-instruct", NF4, "llama-3.1-8b-instruct-bnb-4bit"),
        ("Some-Model-unsloth-bnb-4bit", NF4, "some-model-bnb-4bit"),
        ("llama-3.1-8b-instruct", None, "llama-3.1-8b-instruct"),
        ("Some-Model-bnb-4bit", None, "some-model"),
    ],
)
def test_directory_name_says_whether_it_is_4_bit(model_name: str, quantization: dict | None, name: str):
    """The folder's name ends in -bnb-4bit exactly if the weights are NF4."""
    assert synthetic.directory_name(model_name, tiny(quantization_config=quantization)) == name


def test_tokenizer_ids_agree_with_the_config():
    """bos, eos and pad have the same ids in the config and the tokenizer, whatever the model's own are."""
    config = tiny()
    files = small_files.small_files({**TINY, "bos_token_id": 99_999}, config)
    added = {token["content"]: token["id"] for token in files["tokenizer.json"]["added_tokens"]}
    for role in ("bos", "eos", "pad"):
        token = files["tokenizer_config.json"][f"{role}_token"]
        assert files["config.json"][f"{role}_token_id"] == added[token] < config.vocab_size
        assert files["generation_config.json"][f"{role}_token_id"] == added[token]


def test_tokenizer_has_one_token_for_each_byte():
    """The alphabet is GPT-2's: 256 letters, printable bytes as themselves, a space as G with a dot."""
    alphabet = small_files.byte_alphabet()
    assert len(set(alphabet)) == 256
    assert [alphabet[byte] for byte in b"A "] == ["A", "\u0120"]
    assert alphabet[0] == "\u0100"


def test_16_bit_config_has_no_quantization():
    """A 16-bit checkpoint of a quantized config states no quantization."""
    config = tiny(quantization_config=None)
    assert "quantization_config" not in small_files.small_files(dict(TINY), config)["config.json"]


def test_checkpoint_is_made_once_and_reused(tmp_path: Path):
    """A complete checkpoint is kept; its folder holds what unsloth and vLLM look for, and no adapter config."""
    plan = plan_of(tmp_path / "tiny-bnb-4bit")
    directory = synthetic.prepare(plan, tmp_path / "cache")
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "generation_config.json", "manifest.json", "model.safetensors",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    inode = (directory / "model.safetensors").stat().st_ino
    assert synthetic.prepare(plan, tmp_path / "cache") == directory
    assert (directory / "model.safetensors").stat().st_ino == inode


def test_two_processes_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second process waits, and removes nothing that the first one's load may be reading."""
    plan, made, begun = plan_of(tmp_path / "model"), [], Barrier(2)
    write = safetensors_file.write_safetensors

    def slowly(path: Path, tensors: list[safetensors_file.Tensor]) -> None:
        made.append(path)
        time.sleep(0.2)
        write(path, tensors)

    def prepare() -> int:
        begun.wait()
        return synthetic.prepare(plan, tmp_path / "cache").stat().st_ino

    monkeypatch.setattr(synthetic, "write_safetensors", slowly)
    with ThreadPoolExecutor(2) as pool:
        folders = [pool.submit(prepare) for _ in range(2)]
        assert len({each.result() for each in folders}) == 1 and len(made) == 1


def test_same_plan_makes_the_same_bytes(tmp_path: Path):
    """Two checkpoints of one plan are equal, so that two machines load the same weights."""
    plan = plan_of(tmp_path / "tiny-bnb-4bit")
    first, second = (synthetic.prepare(plan, tmp_path / name) for name in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_truncated_checkpoint_is_replaced(tmp_path: Path):
    """A file that is too short is replaced."""
    plan = plan_of(tmp_path / "tiny-bnb-4bit")
    file = synthetic.prepare(plan, tmp_path / "cache") / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    synthetic.prepare(plan, tmp_path / "cache")
    assert file.read_bytes() == whole


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file_is_replaced(name: str, tmp_path: Path):
    """A file of the same length with a changed byte is replaced: a small file's content and the weights' header are checked."""
    plan = plan_of(tmp_path / "tiny-bnb-4bit")
    file = synthetic.prepare(plan, tmp_path / "cache") / name
    whole = file.read_bytes()
    file.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    synthetic.prepare(plan, tmp_path / "cache")
    assert file.read_bytes() == whole


def test_checkpoint_of_another_config_is_replaced(tmp_path: Path):
    """The same name with another shape is a different checkpoint."""
    directory = synthetic.prepare(plan_of(tmp_path / "tiny-bnb-4bit"), tmp_path / "cache")
    size = (directory / "model.safetensors").stat().st_size
    assert synthetic.prepare(plan_of(tmp_path / "tiny-bnb-4bit", num_hidden_layers=3), tmp_path / "cache") == directory
    assert (directory / "model.safetensors").stat().st_size > size


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A failed write leaves no folder and no part of one, only its empty lock."""

    def full_disk(path: Path, tensors: list) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "write_safetensors", full_disk)
    with pytest.raises(OSError, match="No space left"):
        synthetic.prepare(plan_of(tmp_path / "tiny-bnb-4bit"), tmp_path / "cache")
    left = list((tmp_path / "cache" / "synthetic").iterdir())
    assert [(path.suffix, path.stat().st_size) for path in left] == [(".lock", 0)]


def test_small_vocabulary_is_refused(tmp_path: Path):
    """A vocabulary without room for 256 bytes and three special tokens is refused by name."""
    with pytest.raises(BadInput, match="vocab_size: 258 is less than the 259 tokens"):
        synthetic.prepare(plan_of(tmp_path / "tiny-bnb-4bit", vocab_size=258), tmp_path / "cache")


def test_full_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the disk is too small, the error says how much is free and how much is needed."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=512))
    with pytest.raises(UnsupportedMachine, match="512 B of disk are free, the synthetic weights take"):
        synthetic.prepare(plan_of(tmp_path / "tiny-bnb-4bit"), tmp_path / "cache")


def test_known_model_has_its_config(tmp_path: Path):
    """A known model's config.json is that of env/models, with the real checkpoint's quantization."""
    profile: Profile = load_profile("smollm2-135m-cpu", {"weights": "synthetic"})
    files = small_files.small_files(synthetic._hf_config(make_plan(profile)), make_plan(profile).config)
    assert files["config.json"]["rope_theta"] == 100000.0
    assert files["config.json"]["quantization_config"]["bnb_4bit_quant_storage"] == "uint8"
    assert files["config.json"]["torch_dtype"] == "bfloat16"
