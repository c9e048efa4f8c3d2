"""Owns the flow-matching schedule: its grid, the lookup of sigma, adding noise, x0 <-> velocity. Must not import other modules of this
package.

x_t = (1 - sigma) x0 + sigma eps, velocity v = eps - x0, so x0 = x_t - sigma v. Latents are [B, T, C, H, W]; timesteps (0 to 1000, larger
is noisier) are [B], or [B, T] where each frame has its own noise level.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000


def shifted(u: Tensor, shift: float) -> Tensor:
    """Return S(u) = s u / (1 + (s - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)


class FlowSchedule:
    """The grid of diffusers' FlowMatchEulerDiscreteScheduler: sigma = S(1000/1000), S(999/1000), ... S(1/1000), without a zero."""

    def __init__(self, shift: float, device: torch.device | str = "cpu") -> None:
        u = torch.arange(NUM_TIMESTEPS, 0, -1, dtype=torch.float64) / NUM_TIMESTEPS
        self.shift = shift
        sigmas = shifted(u, shift)
        self.sigmas = sigmas.to(device)
        """[1000] float64, descending."""
        self.host_timesteps = (sigmas * NUM_TIMESTEPS).float()
        """The same as `timesteps`, on the CPU: what the host decides by them does not wait for the device."""
        self.timesteps = self.host_timesteps.to(device)
        """[1000] float32, descending: what the network is given."""

    def index(self, timesteps: Tensor) -> Tensor:
        """Return the grid entry that is nearest to each timestep, in the shape of `timesteps`; entry 0 is pure noise."""
        return (timesteps[..., None] - self.timesteps).abs().argmin(-1)

    def sigma(self, timesteps: Tensor) -> Tensor:
        """Return sigma of the nearest grid entry, float64 in the shape of `timesteps`. It is never t / 1000, as t may be rounded."""
        return self.sigmas[self.index(timesteps)]

    def warp(self, step: int) -> float:
        """Return the shifted timestep of `step` (1000 to 0) on the unshifted grid; step 0 is t = 0."""
        return 0.0 if step == 0 else float(self.host_timesteps[NUM_TIMESTEPS - step])

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t in the type of `clean`."""
        sigma = self._broadcast(timesteps, clean)
        return ((1 - sigma) * clean.double() + sigma * noise.double()).to(clean.dtype)

    def to_clean(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """Return x0 in the type of `noisy`, computed in float64: at sigma near 0 the difference is small beside both."""
        return (noisy.double() - self._broadcast(timesteps, noisy) * velocity.double()).to(noisy.dtype)

    def to_level(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor, sigma: float) -> Tensor:
        """Return the state at `sigma` on the straight line along the velocity, in the type of `noisy`, computed in float64; at 0 it is
        x0."""
        return (noisy.double() - (self._broadcast(timesteps, noisy) - sigma) * velocity.double()).to(noisy.dtype)

    def add_noise_above(self, latents: Tensor, noise: Tensor, timesteps: Tensor, sigma: float) -> Tensor:
        """Return x_t in the type of `latents`, which have noise of `sigma` already; nothing is added where x_t has no more. At 0 it is
        add_noise.

        alpha x + beta eps with alpha = (1 - sigma_t) / (1 - sigma) and beta^2 = sigma_t^2 - (alpha sigma)^2: the data's share and the
        noise's whole variance are those of t (trainers/methods/README.md section 7).
        """
        now = self._broadcast(timesteps, latents).clamp(min=sigma)
        alpha = (1 - now) / (1 - sigma)
        beta = (now.square() - (alpha * sigma).square()).clamp(min=0).sqrt()
        return (alpha * latents.double() + beta * noise.double()).to(latents.dtype)

    def to_velocity(self, noisy: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity that leads from `noisy` to `clean`, in the type of `noisy`, computed in float64."""
        return ((noisy.double() - clean.double()) / self._broadcast(timesteps, noisy)).to(noisy.dtype)

    def _broadcast(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        sigma = self.sigma(timesteps)
        return sigma.reshape(*sigma.shape, *[1] * (latents.ndim - sigma.ndim))


def middle_weights(device: torch.device | str = "cpu") -> Tensor:
    """Return weights [1000] float64: how much the loss at each grid entry counts in diffusion forcing (trainers/methods/README.md section
    9).

    A bell over the entry's number k, y = exp(-2 ((k - 500) / 1000)^2), less its least value (which is at k = 0: pure noise does not
    count), scaled to a mean of 1; the largest is 1.58. By k, not by the shifted timestep: with shift 1 the two are the same.
    """
    k = torch.arange(NUM_TIMESTEPS, dtype=torch.float64)
    bell = torch.exp(-2 * ((k - NUM_TIMESTEPS / 2) / NUM_TIMESTEPS).square())
    return ((bell - bell.min()) * NUM_TIMESTEPS / (bell - bell.min()).sum()).to(device)
