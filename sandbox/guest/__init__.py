"""What runs inside a sandbox. It imports the standard library, the pure half of `cloister.ipc` and itself."""
