"""Networks as torch modules and as programs of others: U-Net, ONNX graphs, TorchScript and torch.export."""
