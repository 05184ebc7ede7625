"""Networks: the project's own U-Net in torch, and programs from elsewhere in ONNX, TorchScript and torch.export."""
