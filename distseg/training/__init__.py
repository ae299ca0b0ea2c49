"""Training one member: data and a fold in, snapshots out."""
