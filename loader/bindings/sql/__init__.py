"""What runs tenants' SQL, in processes of its own: the standard library, msgpack, and nothing of the host."""
