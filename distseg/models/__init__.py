"""Networks: the one place that knows segmentation-models-pytorch and timm."""

from distseg.models.build import SegmentationNet, build_model, count_parameters

__all__ = ["SegmentationNet", "build_model", "count_parameters"]
