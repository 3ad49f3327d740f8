"""Arrays on CUDA devices, with the CPU in the place of the GPU."""
