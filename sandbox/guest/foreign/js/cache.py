"""`caches`."""

from cloister.sandbox.guest.caches import caches as caches
