"""A finished run as models that leave the house: folders, smp models, ONNX, torch.export."""
