"""ModelNet10: shapes of 10 kinds of furniture as point clouds, classified by PointNet.

The data are two files, `modelnet10_train.npz` and `modelnet10_test.npz`, with the arrays
`points` (N, P, 3) in the unit ball, `labels` (N,) and `classes` (10,). The public download holds
meshes instead; `meshes.sample_meshes` turns it into these files.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.app.tasks.arrays import Arrays, example_batch, stratified
from widthwise.app.tasks.data import by_hand, find
from widthwise.app.tasks.formats import read_npz
from widthwise.app.tasks.meshes import URL
from widthwise.errors import DataError
from widthwise.task import Recipe, Splits, Task

POINTS = 1024
CLASSES = tuple("bathtub bed chair desk dresser monitor nightstand sofa table toilet".split())


def load_splits() -> Splits:
    """The official train file, of which a stratified tenth is kept for validation, and test file.

    Inputs: (3, 1024) float32, x, y and z of the points; the train ones are turned and jittered
    at random. Raises DataError when the data is missing or damaged.
    """
    inputs, targets = _read("modelnet10_train.npz")
    train, valid = stratified(targets, (0.9,), seed=0)
    return Splits(
        train=Arrays(inputs[train], targets[train], augment=turn_and_jitter),
        valid=Arrays(inputs[valid], targets[valid]),
        test=Arrays(*_read("modelnet10_test.npz")),
    )


def _read(name: str) -> tuple[Tensor, Tensor]:
    path = find("modelnet10", name)
    if path is None:
        raise DataError(f"ModelNet10's {name} was not found; {_remedy()}.")
    points, labels = read_npz(path, ("points", "labels"), _remedy())
    if points.ndim != 3 or points.shape[1:] != (POINTS, 3) or labels.shape != points.shape[:1]:
        raise DataError(
            f"{path} holds points of shape {points.shape} and labels of shape {labels.shape}"
            f" instead of (N, {POINTS}, 3) and (N,); {_remedy()}."
        )
    inputs = torch.tensor(points).float().transpose(1, 2).contiguous()  # (N, 3, P)
    return inputs, torch.tensor(labels).long()


def _remedy() -> str:
    return (
        f"{by_hand('modelnet10')}, or download {URL} and run python -c 'from "
        'widthwise.app.tasks.meshes import sample_meshes; sample_meshes("ModelNet10.zip")\''
    )


def turn_and_jitter(points: Tensor) -> Tensor:
    """Turn each cloud about its upright z axis by any angle and move each point a little.

    points: (B, 3, P) -> the same shape. As published for PointNet: the noise has a deviation of
    0.01 and is clipped to 0.05. Draws from torch's global generator.
    """
    angle = torch.rand(len(points), 1) * (2 * math.pi)
    cos, sin = angle.cos(), angle.sin()  # (B, 1)
    x, y, z = points.unbind(1)  # each (B, P)
    turned = torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=1)
    return turned + (torch.randn_like(turned) * 0.01).clamp_(-0.05, 0.05)


class TransformNet(nn.Module):
    """PointNet's T-net: predicts one size x size matrix from a whole cloud.

    forward: (B, size, P) -> (B, size, size). It starts out as the identity for every cloud.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv1 = nn.Conv1d(size, 64, 1)
        self.bn1 = nn.BatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, 128, 1)
        self.bn2 = nn.BatchNorm1d(128)
        self.conv3 = nn.Conv1d(128, 1024, 1)
        self.bn3 = nn.BatchNorm1d(1024)
        self.fc1 = nn.Linear(1024, 512)
        self.bn4 = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, 256)
        self.bn5 = nn.BatchNorm1d(256)
        self.fc3 = nn.Linear(256, size * size)
        nn.init.zeros_(self.fc3.weight)
        with torch.no_grad():
            self.fc3.bias.copy_(torch.eye(size).flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = x.amax(dim=2)  # (B, 1024, P) -> (B, 1024)
        x = F.relu(self.bn4(self.fc1(x)))
        x = F.relu(self.bn5(self.fc2(x)))
        matrix: Tensor = self.fc3(x).reshape(-1, self.size, self.size)
        return matrix


class PointNet(nn.Module):
    """PointNet classification (Qi et al., 2017) with both T-nets.

    forward: (B, 3, P) float32 -> logits (B, classes). The published loss also pulls the 64x64
    transform towards an orthogonal matrix (weight 0.001); here the loss sees the logits alone.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.input_transform = TransformNet(3)
        self.conv1 = nn.Conv1d(3, 64, 1)
        self.bn1 = nn.BatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, 64, 1)
        self.bn2 = nn.BatchNorm1d(64)
        self.feature_transform = TransformNet(64)
        self.conv3 = nn.Conv1d(64, 64, 1)
        self.bn3 = nn.BatchNorm1d(64)
        self.conv4 = nn.Conv1d(64, 128, 1)
        self.bn4 = nn.BatchNorm1d(128)
        self.conv5 = nn.Conv1d(128, 1024, 1)
        self.bn5 = nn.BatchNorm1d(1024)
        self.fc1 = nn.Linear(1024, 512)
        self.bn6 = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, 256)
        self.bn7 = nn.BatchNorm1d(256)
        self.dropout = nn.Dropout(0.3)
        self.fc3 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_transform(x) @ x  # (B, 3, 3) @ (B, 3, P)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.feature_transform(x) @ x  # (B, 64, 64) @ (B, 64, P)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        x = F.relu(self.bn5(self.conv5(x)))
        x = x.amax(dim=2)  # (B, 1024, P) -> (B, 1024)
        x = F.relu(self.bn6(self.fc1(x)))
        x = F.relu(self.bn7(self.fc2(x)))
        logits: Tensor = self.fc3(self.dropout(x))
        return logits


def task() -> Task:
    """PointNet on ModelNet10, 1,024 points; batch and rate as published, fewer epochs."""
    return Task(
        name="modelnet10",
        model=PointNet,
        example=partial(example_batch, 4, 3, POINTS),
        splits=load_splits,
        loss=F.cross_entropy,
        recipe=Recipe(epochs=20, batch_size=32, lr=1e-3),
        classes=CLASSES,
    )
