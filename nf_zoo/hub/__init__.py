"""Weights: what exists, where it comes from, how it gets into a model and out of one.

- `factory`: create_model, list_models, model_info and the factories.
- `catalog`: the records of weights/catalog.toml, one `record` per published checkpoint;
  `catalog_check` and `catalog_add` keep it.
- `sources`: `pretrained=...` resolved to a record, a hub repository or a local file; fetching.
- `repository`: the hub's files, looked at with suspicion; `downloads`: files from elsewhere;
  `fetching`: ahead of time.
- `pretrained`: load_pretrained, for sources that say themselves what they are.
- `loading`: a checkpoint into a model; `fitting` holds the two against each other first.
- `foreign_names`: timm's and DeepMind's names and layouts; whose tensors are these? Networks of
  one name are not filled with each other's weights.
- `files`: safetensors files opened, one or several with the index of `shards`; `diagnosis`: what
  a file is instead.
- `model_config`: config.json; `timm_config`: timm's; `keras_files`: what Keras saved.
- `haiku_files`, `restricted_pickle`, `pickled_arrays`: DeepMind's pickles, read without running.
- `saving`: weights written; `folder`: save_pretrained; `card`: the model card.
- `publishing`: push_to_hub; `uploading`: one commit, or nothing.
- `blueprint`: a model's sizes without its weights.
- `errors`: what can go wrong, each with its remedy.

The submodules are imported where they are used: importing this package costs nothing.
"""
