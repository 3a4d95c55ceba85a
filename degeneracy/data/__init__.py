"""Where do images come from? Files with their checksums, and whole data sets as tensors."""
