"""From images to native-size logits: evaluation, out-of-fold, test images."""
