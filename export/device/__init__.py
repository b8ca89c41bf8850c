"""What is copied to a device as it is; it needs numpy and onnxruntime and nothing of edgecmd."""
