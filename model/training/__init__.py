"""Training a U-Net: windows of images, augmentation, losses, the loop, checkpoints."""
