"""Encoders of sound: Whisper's in several models, and the conformer of Gemma 4."""

from __future__ import annotations

from melange_sky.models.fields import Fields
from melange_sky.models.layers import Matrix
from melange_sky.models.reading.vit import Vit, projection, two_layers, vit


def _whisper(
    audio: Fields, name: str, bins: int, positions: int, beside: int
) -> tuple[Matrix, ...]:
    """Return Whisper's encoder (arXiv 2212.04356): two convolutions before layers without biases on keys."""
    hidden = audio.whole("d_model")
    sizes = Vit(
        hidden=hidden,
        layers=audio.maybe("encoder_layers") or audio.layers(),
        width=audio.whole("encoder_ffn_dim"),
        patch_values=3 * audio.whole("num_mel_bins", bins),
        positions=positions,
        layer_extra=-hidden,
        beside=3 * hidden * hidden + 3 * hidden + beside,
    )
    return vit(sizes, name)


def whisper_encoder(audio: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the audio encoder of Qwen2.5-Omni: Whisper's, and one projection."""
    outputs = audio.maybe("output_dim") or text
    encoder = _whisper(audio, "audio_tower", 128, 0, 2 * text)
    return (*encoder, projection("audio_tower.proj", outputs, audio.whole("d_model")))


def minicpm_o_audio(audio: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the Whisper encoder of MiniCPM-o and its projection."""
    positions = audio.whole("max_source_positions", 1500)
    width = audio.whole("encoder_ffn_dim")
    return (
        *_whisper(audio, "apm", 80, positions, 0),
        *two_layers("audio_projection_layer", width // 2, text, text),
    )


def omni_audio(audio: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the audio encoder of Qwen3-Omni: three convolutions in two dimensions before its layers."""
    hidden, width = audio.whole("d_model"), audio.whole("encoder_ffn_dim")
    inner = audio.whole("downsample_hidden_size", 480)
    bins = audio.whole("num_mel_bins", 128)
    outputs = audio.maybe("output_dim") or text
    sizes = Vit(
        hidden=hidden,
        layers=audio.maybe("encoder_layers") or audio.layers(),
        width=width,
        patch_values=inner * -(-bins // 8),
        patch_bias=False,
        beside=2 * hidden + 9 * inner * (1 + 2 * inner) + 3 * inner,
    )
    return (*vit(sizes, "audio_tower"), *two_layers("audio_tower", hidden, hidden, outputs))


def gemma4_audio(audio: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the conformer of Gemma 4: two feed-forwards, attention and a convolution in each layer."""
    hidden, layers = audio.whole("hidden_size"), audio.layers()
    channels = audio.wholes("subsampling_conv_channels") or [128, 32]
    first, last = max(1, channels[0]), max(1, channels[-1])
    kernel = audio.whole("conv_kernel_size", 5)
    outputs = audio.whole("output_proj_dims", 1536)
    head = max(1, hidden // audio.whole("num_attention_heads", 8))
    audio.read.update(("attention_chunk_size", "attention_context_left", "attention_context_right"))

    def each(name: str, out: int, into: int) -> Matrix:
        return Matrix(
            name=f"audio_tower.layers.0.{name}",
            part="tower",
            outputs=out,
            inputs=into,
            copies=layers,
        )

    beside = layers * ((9 + kernel) * hidden + head) + 9 * first * (1 + last) + first + last
    rows = [
        *(each(f"feed_forward{n}.ffw_layer_1", 4 * hidden, hidden) for n in (1, 2)),
        *(each(f"feed_forward{n}.ffw_layer_2", hidden, 4 * hidden) for n in (1, 2)),
        *(each(f"self_attn.{name}_proj", hidden, hidden) for name in ("q", "k", "v", "relative_k")),
        each("self_attn.post", hidden, hidden),
        each("lconv1d.linear_start", 2 * hidden, hidden),
        each("lconv1d.linear_end", hidden, hidden),
    ]
    return (
        *rows,
        Matrix(name="audio_tower.norms", part="tower", inputs=beside, linear=False),
        projection("audio_tower.input_proj_linear", hidden, first // 4 * last, False),
        projection("audio_tower.output_proj", outputs, hidden),
        projection("embed_audio.embedding_projection", text, outputs, False),
    )
