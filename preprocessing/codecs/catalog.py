"""Which codec a recipe asks for."""

from preprocessing.codecs.base import Codec
from preprocessing.codecs.dct import DctCodec
from preprocessing.config import EncodeConfig


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
