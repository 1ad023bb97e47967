"""Training at scale, by recipes."""

from nf_zoo.extras import require

require("ml_collections", "The recipes of training/")
