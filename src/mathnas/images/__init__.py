"""Images for training and evaluation: sources, augmentation, batches.

Needs the extra ``images``. ``sources`` and its neighbours say what the images are, ``transforms``
and ``preprocessing`` what is done to them, ``loader`` which of them make a batch; ``known`` opens
sources by name.
"""
