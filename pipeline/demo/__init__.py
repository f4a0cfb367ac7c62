"""The demo's model and photos, from packages of the index."""
