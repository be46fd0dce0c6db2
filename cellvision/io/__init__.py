"""Every foreign file but images: raw folders, tables, HDF5, tensors, label maps, GeoJSON."""
