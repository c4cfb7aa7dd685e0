"""ONNX graphs as networks: read, folded, put under their names, traced as torch would trace them, and compared."""
