"""Parts of networks, one file each, with its paper; `ComposedUnet` puts them together."""
