"""The same training steps in PyTorch, made as fast as they get there: what we are compared with.

Networks, losses, float32 parameters, Adam and batch are ours. What differs does not reach training:
running variances are PyTorch's, of n - 1 degrees of freedom, and D's statistics also move by its
pass in G's update; the norms of gradients that our steps report are not computed, but gradients of
the 40 biases that BatchNorm takes away again are, as PyTorch's users do.

`ways` are those that are measured. Slower were, on two cores of a CPU with AVX-512: G by
`torch.compile`, and pixel shuffle by views; flushing denormals made no difference. On CUDA, TF32
is allowed.
"""

from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from srgan_jax.benchmark.torch_networks import VGG19, Discriminator, state_dict, suit_cpu
from srgan_jax.convert import exports
from srgan_jax.convert.srresnet import SRResNet
from srgan_jax.errors import UserError
from srgan_jax.losses import AdversarialLoss, ContentLoss
from srgan_jax.models import discriminator as flax_discriminator
from srgan_jax.models import vgg as flax_vgg
from srgan_jax.models.generator import Generator
from srgan_jax.state import Params, Variables
from srgan_jax.weights import architecture


def has(device: str) -> bool:
    """Whether PyTorch can use it, "cpu" or "cuda"."""
    return device == "cpu" or torch.cuda.is_available()


def ways(device: str) -> dict[str, dict[str, bool]]:
    """How the networks are run, by name, as arguments of `Trainer`.

    As PyTorch's users write them, channels_last, Adam fused; compiled, on CPUs but for G, which is
    slower so; and there with layers of G written anew by hand.
    """
    usual = {"eager": {"compiled": False}, "compile": {"compiled": True}}
    return usual | ({"rewritten": {"compiled": True, "rewritten": True}} if device == "cpu" else {})


class Trainer:
    """G in pre-training, or G and D in the GAN phase, one update a step.

    Attributes:
      generator: in training mode, as is `discriminator`.
      discriminator: None in pre-training.
      compiles: whether there is anything that is compiled.
    """

    def __init__(
        self,
        generator: tuple[Generator, Variables],
        discriminator: tuple[flax_discriminator.Discriminator, Variables] | None = None,
        vgg: tuple[flax_vgg.VGG19, Params] | None = None,
        *,
        content: ContentLoss,
        adversarial: AdversarialLoss | None = None,
        learning_rate: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        compiled: bool = True,
        rewritten: bool = False,
        autocast: bool = False,
        device: str = "cpu",
        cores: int = 1,
    ) -> None:
        """Networks are pairs of a Flax module and what it starts from, which is copied.

        Args:
          generator: G.
          discriminator: D, in the GAN phase.
          vgg: where the content loss compares features.
          content: without total variation.
          adversarial: where there is D; of kind "nonsaturating".
          learning_rate, beta1, beta2, epsilon: of Adam, for both networks.
          compiled: by `torch.compile`, at the first steps; on a CPU not G, which is slower so.
          rewritten: shared PReLU as LeakyReLU, the last convolution by rows: see `suit_cpu`.
          autocast: compute in bfloat16 what PyTorch thinks fit; parameters stay float32.
          device: "cpu" or "cuda".
          cores: that the CPU's work is shared by.

        Raises: UserError for a loss that is not written here.
        """
        if content.tv or (adversarial and adversarial.kind != "nonsaturating"):
            raise UserError(
                "the PyTorch side has neither total variation nor another adversarial loss than"
                " nonsaturating: measure without --against=torch"
            )
        torch.set_num_threads(cores)
        if device != "cpu":  # where "high" would be less than float32
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        self.compiles = False
        self.device, self.autocast = torch.device(device), autocast
        self.content, self.adversarial = content, adversarial or AdversarialLoss()

        def prepare(network: nn.Module, arrays: dict[str, np.ndarray]) -> nn.Module:
            network.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
            network.to(self.device, memory_format=torch.channels_last).train()
            if compiled and not (self.device.type == "cpu" and isinstance(network, SRResNet)):
                network.compile()
                self.compiles = True
            return network

        def adam(network: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(
                network.parameters(),
                learning_rate,
                betas=(beta1, beta2),
                eps=epsilon,
                fused=True,
            )

        network = SRResNet(**architecture(generator[0]))
        if rewritten:
            suit_cpu(network)
        self.generator = prepare(network, exports.state_dict(*generator))
        self.generator_adam = adam(self.generator)
        self.discriminator = self.vgg = None
        if discriminator:
            judge, variables = discriminator
            inputs = variables.params["dense0"]["kernel"].shape[0]
            arrays = state_dict(variables.params, variables.batch_stats)
            self.discriminator = prepare(Discriminator(judge, inputs), arrays)
            self.discriminator_adam = adam(self.discriminator)
        if vgg:
            module, params = vgg
            needed = flax_vgg.convolutions_needed(module.layers)
            self.vgg = prepare(VGG19(module), state_dict({name: params[name] for name in needed}))

    def step(self, lr_image: torch.Tensor, hr: torch.Tensor) -> dict[str, torch.Tensor]:
        """One update of G, after one of D where there is one; both share one pass of G.

        Args:
          lr_image: [B, 3, h, w] in [0, 1], on the device, channels_last.
          hr: [B, 3, s*h, s*w] in [-1, 1], likewise.

        Returns: the losses by our names, scalars that are still on the device.
        """
        sr = self._run(self.generator, lr_image).float()
        told = {}
        if self.discriminator is not None:
            told["loss/discriminator"] = self._update_discriminator(hr, sr.detach())
        told["loss/mse"] = functional.mse_loss(sr, hr)
        loss = self.content.pixel * told["loss/mse"]
        if self.vgg is not None:
            with torch.no_grad():
                hr_features = self._run(self.vgg, hr)
            told["loss/vgg"] = self._feature_distance(self._run(self.vgg, sr), hr_features)
            loss = loss + self.content.vgg * told["loss/vgg"]
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)  # its gradient is not wanted here
            told["loss/adversarial"] = self._adversarial(sr)
            self.discriminator.requires_grad_(True)
            loss = loss + self.adversarial.weight * told["loss/adversarial"]
        descend(self.generator_adam, loss)
        return {name: value.detach() for name, value in (told | {"loss": loss}).items()}

    def generator_arrays(self) -> dict[str, np.ndarray]:
        """G as it is now, by the keys of `convert.exports.state_dict`."""
        arrays = self.generator.state_dict().items()
        return {k: v.cpu().numpy() for k, v in arrays if not k.endswith("num_batches_tracked")}

    def _update_discriminator(self, hr: torch.Tensor, sr: torch.Tensor) -> torch.Tensor:
        """Real and fake crops pass separately, each normalised by its own batch statistics."""
        real_logits, fake_logits = self._run(self.discriminator, hr, sr).float().chunk(2)
        loss = functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()
        descend(self.discriminator_adam, loss)
        return loss.detach()

    def _adversarial(self, sr: torch.Tensor) -> torch.Tensor:
        return functional.softplus(-self._run(self.discriminator, sr).float()).mean()

    def _feature_distance(self, sr: Any, hr: Any) -> torch.Tensor:
        """As `losses.feature_distance`."""
        total = 0.0
        for layer, weight in self.content.layers:
            distance = functional.mse_loss(sr[layer].float(), hr[layer].float())
            channels = sr[layer].shape[1] if self.content.channels == "sum" else 1
            total = total + weight * channels * self.content.feature_scale**2 * distance
        return total

    def _run(self, network: nn.Module, *images: torch.Tensor) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return network(*images)


def descend(adam: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One update."""
    adam.zero_grad()
    loss.backward()
    adam.step()


def to_torch(image: jax.Array, device: str = "cpu") -> torch.Tensor:
    """[B, H, W, 3] as a step takes it: [B, 3, H, W], channels_last."""
    return torch.from_numpy(np.array(image)).permute(0, 3, 1, 2).to(device)
