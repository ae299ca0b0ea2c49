"""From a competition's files to samples: layouts, checks, folds, the decode cache, augmentation."""
