"""ONNX models: what folding makes of them, and ONNX's own operators as oracles for ours.

Not called "onnx", as a folder of tests would hide the package of this name.
"""
