"""Making the built-in set `emoji` again from the packages that its pictures come from."""
