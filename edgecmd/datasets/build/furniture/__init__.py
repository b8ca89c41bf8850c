"""Rendered rooms and objects: furniture meshes into pictures and depth maps."""
