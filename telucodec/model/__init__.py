"""The network: frames to latents to codes, and back."""
