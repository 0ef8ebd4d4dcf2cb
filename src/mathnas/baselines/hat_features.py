"""The ten averages that HAT's latency predictor reads of a SubTransformer (Wang et al., ACL 2020).

Which layer has which choice is not in them. Exchanging layers of the encoder, or of the decoder,
changes no feature, so a predictor on them gives every layer the same effect.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.space import Floats, SearchSpace
from mathnas.spaces import SuperTransformer
from mathnas.spaces.supertransformer import attended_layers

HAT_FEATURES = {
    "encoder_embed_dim": 640.0,
    "encoder_layer_num": 6.0,
    "encoder_ffn_embed_dim_avg": 2048.0,
    "encoder_self_attention_heads_avg": 6.0,
    "decoder_embed_dim": 640.0,
    "decoder_layer_num": 6.0,
    "decoder_ffn_embed_dim_avg": 2048.0,
    "decoder_self_attention_heads_avg": 6.0,
    "decoder_ende_attention_heads_avg": 6.0,
    "decoder_arbitrary_ende_attn_avg": 2.0,
}
"""Names in the order of HAT's latency data, and the constants by which HAT divides each."""


def hat_features(space: SearchSpace, networks: npt.ArrayLike) -> Floats:
    """The features of networks as columns of HAT's latency data, shape (k, 10).

    Averages are over the layers that are present. The attention to the encoder counts as 1, 2 or 3,
    how many of its layers are attended to.

    Args:
        space: a `mathnas.spaces.SuperTransformer`.
        networks: block indices, shape (k, m).

    Raises:
        InvalidInputError: the space is another one, or a network is not of it.
    """
    if not isinstance(space, SuperTransformer):
        raise InvalidInputError(
            f"HAT's features are those of a SuperTransformer, but {space.name} is none: "
            "mathnas.baselines.mlp.hat_predictor reads networks of any space, one-hot."
        )
    chosen = space.check_many(networks)
    encoder, decoder = np.split(chosen, [space.encoder_layers], axis=1)
    of_encoder = np.array([(own.ffn, own.heads) for own in space.encoder_choices])
    of_decoder = np.array(
        [
            (own.ffn, own.self_heads, own.cross_heads, attended_layers(own.attention))
            for own in space.decoder_choices
        ]
        + [(0, 0, 0, 0)]  # absent
    )
    depths = np.sum(decoder < len(space.decoder_choices), axis=1)
    constants = np.broadcast_to(
        (space.encoder_embed, space.encoder_layers, space.decoder_embed), (len(chosen), 3)
    )
    return np.column_stack(
        [
            constants[:, :2],
            of_encoder[encoder].sum(axis=1) / space.encoder_layers,
            constants[:, 2],
            depths,
            of_decoder[decoder].sum(axis=1) / depths[:, np.newaxis],
        ]
    )
