"""The step of step.rs for StudentNet in PyTorch. usage: python benches/step.py [THREADS]"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
CHANNELS = [16, 32, 64, 128, 256, 256, 256, 256]

layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.MaxPool2d(2)]
for i, (a, b) in enumerate(zip(CHANNELS, CHANNELS[1:])):
    layers += [nn.Conv2d(a, a, 3, padding=1, groups=a), nn.BatchNorm2d(a), nn.ReLU6(), nn.Conv2d(a, b, 1)]
    layers += [nn.MaxPool2d(2)] if i < 3 else []
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 11))
optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
x, targets = torch.randn(128, 3, 32, 32), torch.softmax(torch.randn(128, 11) / 4, 1)

times = []
for _ in range(12):
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = 16 * F.kl_div(F.log_softmax(net(x) / 4, 1), targets, reduction="batchmean")
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
times = times[2:]
print(f"{torch.get_num_threads()} threads: best {min(times) * 1e3:.1f} ms, mean {sum(times) / len(times) * 1e3:.1f} ms")
