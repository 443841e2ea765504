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

import unicodedata

FORMATS = ("timm", "onnx", "torch", "code")

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # controls, bytes that are no UTF-8, ends of lines


def printable(text: str) -> str:
    """Text that comes from names of files, in one line that any output in UTF-8 takes: what is no
    letter in it is escaped.
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in UNPRINTABLE
        else letter
        for letter in text
    )
