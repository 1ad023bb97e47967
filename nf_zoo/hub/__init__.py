"""Weights: what exists, where it comes from, how it gets into a model and out of one.

- `factory`: create_model, list_models, model_info and the factories.
- `catalog`: the records of weights/catalog.toml, one per published checkpoint.
- `sources`: `pretrained=...` resolved to a record, a hub repository or a local file; fetching.
- `loading`: a checkpoint into a model; `fitting` holds the two against each other first.
- `from_timm`, `from_haiku`: foreign names and layouts; `recognise`: whose tensors are these?
- `variants`: timm's network and DeepMind's of one name are not filled with each other's weights.
- `files`: safetensors files and folders, read and written; `model_config`: their config.json;
  `diagnosis`: what a file is instead.
- `haiku_files`, `restricted_pickle`, `pickled_arrays`: DeepMind's pickles, read without running.
- `downloads`: files that lie elsewhere than on the hub.
- `blueprint`: a model's sizes without its weights.
- `errors`: what can go wrong, each with its remedy.

The submodules are imported where they are used: importing this package costs nothing.
"""
