"""Adapters that keep things: blobs, a node's journal, keys, and the catalogue of a data owner's data sets."""
