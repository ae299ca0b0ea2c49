"""What a data set holds, image by image, and what looks wrong with it."""
