"""Predictions at the speed of the hardware: the networks' equations and their first derivatives, written out by hand.

`predict` in `ase_xai.networks.base` is the reference, differentiable any number of times; what stands here gives the same
energies, charges, forces and stress without recording operations, with kernels made for the machine. Training and
explanations that differentiate further use the reference.
"""
