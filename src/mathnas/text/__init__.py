"""Text for training and evaluating translation: parallel sentences, vocabularies, batches, BLEU.

Needs the extra ``text``. ``corpus`` says what the sentences are, ``vocabulary`` turns them into
ids, ``batches`` into tensors; ``held_out`` tests networks on them, ``bleu`` scores translations.
``corpus``, ``vocabulary`` and ``bleu`` work without torch.
"""
