"""Weights: what exists, where it comes from, how it gets into a model and out of one.

- `models`: create_model, list_models, model_info; `factories`: one for each row of the tables;
  `pretrained`: load_pretrained.
- `catalog`: the records of weights/catalog.toml, one per published checkpoint; `curation` adds
  and checks them.
- `sources`: `pretrained=...` resolved to a record, a hub repository or a local file.
- `repository`: the hub and its cache, looked at with suspicion; files from elsewhere.
- `loading`: a checkpoint held against a model, then assigned; `checkpoint`: an open weights file.
- `foreign_names`: timm's and DeepMind's names and layouts; whose tensors are these? Networks of
  one name are not filled with each other's weights.
- `description`: config.json, and models without values; `timm_config`: config.json of timm's.
- `folder`: save_pretrained; `card`: the model card; `publishing`: push_to_hub.
- `untrusted`: everything that reads what a stranger wrote.
- `errors`: what can go wrong, each with its remedy.

The submodules are imported where they are used: importing this package costs nothing.
"""
