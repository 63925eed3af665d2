"""The data set: from the hub to a data root, and whether it is sound."""
