"""A finished run as models for use elsewhere: folders, smp models, ONNX, torch.export."""
