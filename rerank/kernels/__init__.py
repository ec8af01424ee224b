"""The two operations that reading attention is made of, fused for CUDA and in plain torch.

    layout      which row sees which keys: Blocks (attention), Sweep (mass)
    reference   both operations in plain torch, on any device
    mass        column mass, Triton; mass_grad its gradients
    blocks      block attention, Triton; blocks_grad its gradients
    tile        what the Triton kernels share
    dispatch    block_attention and column_mass, and which side computes them

Only ``dispatch`` is meant to be called. Nothing here is imported before it is used, Triton
least of all. ``docs/kernels.md`` says how the kernels work.
"""
