"""What `import edgecmd as ec` offers: objects in memory or on the disk, and verbs over them."""
