"""Training: one loop for fine-tuning, distillation, recovery between rounds and quantization-aware training."""
