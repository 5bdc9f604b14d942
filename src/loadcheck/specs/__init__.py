"""The facts of env/*.toml as checked, frozen objects."""
