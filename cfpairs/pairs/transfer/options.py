"""Settings of the autoencoder and of its training; needs no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cfpairs.config import Strict

__all__ = ["ModelOptions"]


class ModelOptions(Strict):
    """Settings of a `VIAE` and of its training."""

    inv_dim: Annotated[int, Field(ge=1, le=1024)] = Field(default=64, description="dimensions of z_inv")
    env_dim: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=2, description="dimensions of z_e; at least one an environment is used"
    )
    width: Annotated[int, Field(ge=4, le=512)] = Field(
        default=32, description="images: channels of the first convolution, half those of the second"
    )
    hidden: Annotated[int, Field(ge=4, le=8192)] = Field(
        default=256, description="units of each layer that is not convolutional"
    )
    distance: Annotated[float, Field(gt=0)] = Field(
        default=8.0, description="length of the prior means of z_e, which are orthogonal"
    )
    invariance: Annotated[float, Field(ge=0)] = Field(
        default=0.02,
        description="weight of the squared distances of the environments' covariances of z_inv",
    )
    divergence: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="weight of the divergence of z_inv from its prior; 1: the bound itself"
    )
    epochs: Annotated[int, Field(ge=1, le=10000)] = 40
    batch: Annotated[int, Field(ge=2, le=65536)] = Field(default=128, description="items a step")
    rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="largest learning rate (Adam)")
    balance: bool = Field(
        default=True,
        description="every label x environment group as often as the others, so that the label does not pass "
        "for a part of the environment",
    )
