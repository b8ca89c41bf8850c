"""Rendered rooms and objects: furniture meshes into images and depth maps."""
