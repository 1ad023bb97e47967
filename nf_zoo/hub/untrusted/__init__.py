"""Everything that reads what a stranger wrote: nothing of a file runs, and none exceeds its size.

- ``documents``: JSON, and links that lead out of their folder.
- ``headers``: names and headers of weights files, and the index of several.
- ``pickles``: DeepMind's pickled trees, interpreted without Python's functions; ``arrays``: their
  .npz and .npy.
- ``keras_files``: .keras files, folded ones too.
"""
