"""The multilayer perceptron that the small tasks train."""

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """features-hidden-hidden-classes with leaky ReLU (slope 0.01) after both hidden layers.

    forward: (B, ...) with `features` values per item, float32 -> logits (B, classes).
    """

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (B, ...) -> (B, features)
        x = F.leaky_relu(self.fc1(x))
        x = F.leaky_relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits
