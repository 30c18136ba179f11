"""The parts of tools/dev/gpu_proof.py: each measures in a process of its own and says each figure as soon as it has it.

A part is a function of a `ground.Ground`.
"""
