"""Ids of the special tokens that every vocabulary has, as in fairseq."""

from __future__ import annotations

START = 0
"""``<s>``: in no sentence of ours."""
PAD = 1
"""``<pad>``: behind sentences that are shorter than others of their batch."""
END = 2
"""``</s>``: at the end of every sentence, and what a decoder reads first."""
UNKNOWN = 3
"""``<unk>``: in place of what a vocabulary does not have."""
