"""Files -> samples: the picture reader, the IEA40K layout, paired transforms, exposure simulation, building of sets."""
