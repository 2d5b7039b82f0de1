"""A tenant's program made of what its author has: a folder, a wheel, and the packages that they say they need."""
