"""Work of commands on the workers of dask.distributed, of this host or of others."""
