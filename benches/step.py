"""The steps of step.rs in PyTorch. usage: python benches/step.py [THREADS]"""

import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())


def student_net():
    channels = [16, 32, 64, 128, 256, 256, 256, 256]
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.MaxPool2d(2)]
    for i, (a, b) in enumerate(zip(channels, channels[1:])):
        layers += [nn.Conv2d(a, a, 3, padding=1, groups=a), nn.BatchNorm2d(a), nn.ReLU6(), nn.Conv2d(a, b, 1)]
        layers += [nn.MaxPool2d(2)] if i < 3 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 11))


class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        wider = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.down = nn.Identity() if a == b else wider

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


def resnet_small():
    blocks = [Block(16, 16, 1), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1)]
    first = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def measure(name, net, shape, classes):
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    x, targets = torch.randn(shape), torch.softmax(torch.randn(shape[0], classes) / 4, 1)
    walls, cpus = [], []
    for _ in range(12):
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = 16 * F.kl_div(F.log_softmax(net(x) / 4, 1), targets, reduction="batchmean")
        loss.backward()
        optimizer.step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    walls, cpus = walls[2:], cpus[2:]
    mean = sum(walls) / len(walls)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{name}: best {min(walls) * 1e3:.1f} ms, mean {mean * 1e3:.1f} ms, CPU {sum(cpus) / len(cpus) * 1e3:.0f} ms, "
        f"{shape[0] / mean:.0f} images/s, process {peak:.0f} MB at its peak"
    )


print(f"{torch.get_num_threads()} threads")
measure("StudentNet 128x3x32x32", student_net(), (128, 3, 32, 32), 11)
measure("resnet_small 128x1x28x28", resnet_small(), (128, 1, 28, 28), 10)
