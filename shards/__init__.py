"""The format between recordings and training: clips, features, shards, manifests, loaders."""
