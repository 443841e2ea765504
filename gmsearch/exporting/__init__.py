"""A network as a folder that lives without us: one module for each format.

EXPORT/
  architecture.json    the network as data
  config.json, model.safetensors    for timm: create_model("local-dir:EXPORT", pretrained=True)
  model.onnx           for ONNX Runtime; model.int8.onnx with 8 bits
  model.pt2            for torch.export.load
  model.py             the network as code that needs torch alone; reads model.safetensors
  check.json           how far each format is from the network in float32
  README.md            the model card
"""

FORMATS = ("timm", "onnx", "torch", "code")
