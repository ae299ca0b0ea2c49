"""Networks: the one place that knows segmentation-models-pytorch and timm."""
