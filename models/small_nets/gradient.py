"""The gradient of a stack of multilayer perceptrons written out, for speed: autograd lays every intermediate result into fresh memory,
and at these sizes asking the system for it costs more than computing. Here memory is taken once and every step writes over it."""

from __future__ import annotations

import torch

from models.small_nets.nets import Stack

MOMENTUM, EPS = 0.1, 1e-5  # of batch norm, torch's


class Gradient:
    """Losses and gradients of a stack of at least two networks, family "mlp". `of` follows stack.trained."""

    def __init__(self, stack: Stack):
        self.stack, self.held = stack, {}
        self.grads = {name: torch.zeros_like(t, requires_grad=False) for name, t in stack.tensors.items() if not name.startswith(("mean", "var"))}

    @property
    def of(self) -> list[torch.Tensor]:
        return list(self.grads.values())

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy [net], nats, mean over samples; the gradient of each network's own lies in `of` then, and running statistics
        have moved. x [feature, sample], read by every network, or [net, feature, sample]; y int64 [net, sample]."""
        with torch.no_grad():
            inputs = [x]
            for layer in range(self.stack.recipe.hidden):
                inputs.append(self._hidden(layer, inputs[-1]))
            last = self.stack.recipe.hidden
            logits = self._affine(last, inputs[-1])
            log_p = logits.log_softmax(1)
            losses = -log_p.gather(1, y[:, None]).mean((1, 2))
            slope = log_p.exp_().scatter_add_(1, y[:, None], log_p.new_full((1, 1, 1), -1.0).expand(len(y), 1, y.shape[1])).div_(y.shape[1])
            self.grads[f"b{last}"].copy_(self._sums(slope))
            self._weights(last, slope, inputs[-1])
            for layer in range(last - 1, -1, -1):
                slope = torch.bmm(self.stack.tensors[f"w{layer + 1}"].mT, slope, out=self._room("slope", layer, x.shape[-1]))
                self._below(layer, slope, inputs[layer + 1])
                self._weights(layer, slope, inputs[layer])
        return losses

    def _room(self, what: str, layer: int, n: int) -> torch.Tensor:
        """Memory [net, unit of the layer, sample], the same at every call."""
        key = (what, 0 if what == "scratch" else layer, n)
        if key not in self.held:
            self.held[key] = self.stack.tensors["w0"].new_empty((*self.stack.tensors[f"b{layer}"].shape, n), requires_grad=False)
        return self.held[key]

    def _affine(self, layer: int, h: torch.Tensor, bias: bool = True) -> torch.Tensor:
        w, z = self.stack.tensors[f"w{layer}"], self._room("z", layer, h.shape[-1])
        if h.dim() == 2:
            torch.mm(w.view(-1, w.shape[2]), h, out=z.view(-1, h.shape[-1]))
        else:
            torch.bmm(w, h, out=z)
        return z.add_(self.stack.tensors[f"b{layer}"][:, :, None]) if bias else z

    def _hidden(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """Batch norm takes any bias out again, so it is left out and only shifts the running mean; its gradient is zero. z is left
        centred, `scale` [net, unit] is 1 / its standard deviation."""
        n, out = h.shape[-1], self._room("h", layer, h.shape[-1])
        if not self.stack.recipe.batch_norm:
            return torch.clamp_min(self._affine(layer, h), 0, out=out)
        z, of = self._affine(layer, h, bias=False), lambda name: self.stack.tensors[f"{name}{layer}"]
        mean = self._sums(z).div_(n)
        z.sub_(mean[:, :, None])
        square = self._sums(torch.mul(z, z, out=out))
        of("mean").lerp_(mean.add_(of("b")), MOMENTUM)
        of("var").lerp_(square / (n - 1), MOMENTUM)
        scale = square.div_(n).add_(EPS).rsqrt_()
        self.held["scale", layer] = scale
        torch.addcmul(of("beta")[:, :, None], z, (of("gamma") * scale)[:, :, None], out=out)
        return out.clamp_min_(0)

    def _below(self, layer: int, slope: torch.Tensor, h: torch.Tensor) -> None:
        """The slope by a layer's output becomes that by its product of weights and inputs, in place."""
        torch.ops.aten.threshold_backward.grad_input(slope, h, 0, grad_input=slope)
        if not self.stack.recipe.batch_norm:
            self.grads[f"b{layer}"].copy_(self._sums(slope))
            return
        n, z, scale = slope.shape[-1], self._room("z", layer, slope.shape[-1]), self.held["scale", layer]
        self.grads[f"b{layer}"].zero_()  # anew: whoever holds it may have added weight decay
        beta = self.grads[f"beta{layer}"].copy_(self._sums(slope))
        along = self._sums(torch.mul(slope, z, out=self._room("scratch", layer, n))).mul_(scale)
        self.grads[f"gamma{layer}"].copy_(along)
        slope.sub_((beta / n)[:, :, None]).addcmul_(z, along.mul_(scale).div_(n)[:, :, None], value=-1)
        slope.mul_(scale.mul_(self.stack.tensors[f"gamma{layer}"])[:, :, None])

    def _weights(self, layer: int, slope: torch.Tensor, h: torch.Tensor) -> None:
        out = self.grads[f"w{layer}"]
        if h.dim() == 2:
            torch.mm(slope.reshape(-1, h.shape[-1]), h.T, out=out.view(-1, out.shape[2]))
        else:
            torch.bmm(slope, h.mT, out=out)

    def _sums(self, z: torch.Tensor) -> torch.Tensor:
        """Over samples, [net, unit]: a product with ones is twice as fast as torch's sum."""
        if ("ones", z.shape[-1]) not in self.held:
            self.held["ones", z.shape[-1]] = z.new_ones(z.shape[-1])
        return (z.view(-1, z.shape[-1]) @ self.held["ones", z.shape[-1]]).view(z.shape[:2])
