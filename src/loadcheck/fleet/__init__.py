"""A fleet: one image and one profile on every card or node, with a single verdict."""
