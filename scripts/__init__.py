"""What `make` calls. `setup` and `locks` need nothing but Python's own library."""
