"""Which codec a recipe asks for."""

from preprocessing.codecs.base import Codec
from preprocessing.codecs.dct import DctCodec
from preprocessing.config import EncodeConfig
from preprocessing.samples import CodecRecord

HUNYUAN_SIZES = CodecRecord(
    codec_id="hunyuan",
    latent_channels=16,
    spatial_stride=8,
    text_dim=4096,
    text_tokens=256,
    pooled_dim=768,
    image_dim=1152,
    image_tokens=729,
    weights_sha256="",
    options={},
)
"""Of the published HunyuanVideo VAE, Llama and CLIP, and FramePack-F1's SigLIP."""


def planned_record(settings: EncodeConfig) -> CodecRecord:
    """The sizes that latents and features will have, without loading the codec's weights; of those nothing is said."""
    return DctCodec().record if settings.codec == "dct" else HUNYUAN_SIZES


def load_codec(settings: EncodeConfig) -> Codec:
    """Build the codec that the settings name, with its weights if it has any.

    Raises:
        ValueError: If weights are missing, saying which setting names them.
    """
    if settings.codec == "dct":
        return DctCodec()
    # Imported late: diffusers and transformers take seconds, and the embedded codec needs neither.
    from preprocessing.codecs.hunyuan import load_hunyuan_codec

    return load_hunyuan_codec(settings.hunyuan, device=settings.device)
