"""Pretrained weights: the catalog, their sources, loading, saving and publishing.

- ``models``: create_model, list_models, model_info; ``factories``: one for each row of the tables;
  ``pretrained``: load_pretrained.
- ``catalog``: the records of weights/catalog.toml, one per published checkpoint; ``curation`` adds
  and checks them.
- ``sources``: resolves ``pretrained=...`` to a record, a hub repository or a local file.
- ``repository``: the hub and its cache, neither of them trusted; files from elsewhere.
- ``loading``: checks a checkpoint against a model, then assigns it; ``checkpoint``: an open weights
  file.
- ``foreign_names``: timm's and DeepMind's names and layouts; recognizes a network by its tensors
  and keeps apart networks that share a name.
- ``description``: config.json, and models without values; ``timm_config``: timm's config.json.
- ``folder``: save_pretrained; ``card``: the model card; ``publishing``: push_to_hub.
- ``untrusted``: everything that reads files from strangers.
- ``errors``: the errors, each with its remedy.

Submodules are imported where they are used: importing this package costs nothing.
"""
