"""A fleet: one image and one profile on every card or node, and one verdict on all of it."""
