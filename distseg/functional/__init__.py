"""Pure arithmetic: arrays in, arrays out. Imports nothing of distseg but its own siblings."""
