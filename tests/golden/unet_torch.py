"""Writes unet_torch.json: output, loss and gradients of a small UNet, computed by PyTorch in f64.

    python3 unet_torch.py > unet_torch.json                (needs torch and numpy; any recent version)
    python3 unet_torch.py --full '{"size": 32, ...}'       (all outputs of another config, for a check by hand)

No weights are stored. Element i (in Mote's layout: convolutions [kh, kw, in, out], linear layers [in, out]) of the
parameter that is k-th in the sorted list of names is value(i, k) below, plus 1 for the scale of a GroupNorm. Values are
multiples of 2^-18, exact in f32. tests/test_unet.cpp evaluates the same formula.
"""
import json
import sys

import numpy as np
import torch
import torch.nn.functional as F

CONFIG = dict(size=8, channels=2, base=16, multipliers=[1, 2, 2], blocks=2, attention=[4], heads=2, classes=3)
BATCH, TIMES, CLASSES = 2, [962.5, 3.0], [1, 3]


def value(count, k):
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + np.uint64(k) * 40503 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    return (((h >> np.uint64(16)) & 0xFFFF).astype(np.float64) - 32768) / 2**18      # [-1/8, 1/8)


def shapes(c):
    """Name -> shape in Mote's layout."""
    base, time = c['base'], 4 * c['base']
    out = {}

    def layer(name, *shape):
        out[name + '.weight'], out[name + '.bias'] = shape, shape[-1:]

    def resnet(name, cin, cout):
        layer(name + '.norm1', cin)
        layer(name + '.conv1', 3, 3, cin, cout)
        layer(name + '.time_emb_proj', time, cout)
        layer(name + '.norm2', cout)
        layer(name + '.conv2', 3, 3, cout, cout)
        if cin != cout:
            layer(name + '.conv_shortcut', 1, 1, cin, cout)

    def attention(name, width):
        layer(name + '.group_norm', width)
        for part in ('to_q', 'to_k', 'to_v', 'to_out.0'):
            layer(f'{name}.{part}', width, width)

    layer('conv_in', 3, 3, c['channels'], base)
    layer('time_embedding.linear_1', base, time)
    layer('time_embedding.linear_2', time, time)
    if c['classes']:
        out['class_embedding.weight'] = (c['classes'] + 1, time)
    widths = [base * m for m in c['multipliers']]
    last = len(widths) - 1
    attends = [c['size'] >> level in c['attention'] for level in range(last + 1)]
    h, skips = base, [base]
    for level, width in enumerate(widths):
        for i in range(c['blocks']):
            resnet(f'down_blocks.{level}.resnets.{i}', h, width)
            if attends[level]:
                attention(f'down_blocks.{level}.attentions.{i}', width)
            h = width
            skips.append(h)
        if level != last:
            layer(f'down_blocks.{level}.downsamplers.0.conv', 3, 3, h, h)
            skips.append(h)
    resnet('mid_block.resnets.0', h, h)
    attention('mid_block.attentions.0', h)
    resnet('mid_block.resnets.1', h, h)
    for up, width in enumerate(reversed(widths)):
        for i in range(c['blocks'] + 1):
            resnet(f'up_blocks.{up}.resnets.{i}', h + skips.pop(), width)
            if attends[last - up]:
                attention(f'up_blocks.{up}.attentions.{i}', width)
            h = width
        if up != last:
            layer(f'up_blocks.{up}.upsamplers.0.conv', 3, 3, h, h)
    layer('conv_norm_out', h)
    layer('conv_out', 3, 3, h, c['channels'])
    return out


def parameters(c):
    made = {}
    for k, (name, shape) in enumerate(sorted(shapes(c).items())):
        data = value(int(np.prod(shape)), k).reshape(shape)
        if 'norm' in name.split('.')[-2] and name.endswith('.weight'):
            data = data + 1
        made[name] = torch.tensor(data, dtype=torch.float64, requires_grad=True)
    return made


def forward(c, p, x, t, classes):
    """x [N, C, H, W]: PyTorch's own layout and operators, weights transposed into it."""

    def norm(name, x):
        return F.group_norm(x, min(32, x.shape[1] // 4), p[name + '.weight'], p[name + '.bias'], 1e-6)

    def conv(name, x, **options):
        return F.conv2d(x, p[name + '.weight'].permute(3, 2, 0, 1), p[name + '.bias'], **options)

    def linear(name, x):
        return F.linear(x, p[name + '.weight'].T, p[name + '.bias'])

    def resnet(name, x):
        h = conv(name + '.conv1', F.silu(norm(name + '.norm1', x)), padding=1)
        h = h + linear(name + '.time_emb_proj', F.silu(time))[:, :, None, None]
        h = conv(name + '.conv2', F.silu(norm(name + '.norm2', h)), padding=1)
        return h + (conv(name + '.conv_shortcut', x) if name + '.conv_shortcut.weight' in p else x)

    def attention(name, x):
        if name + '.to_q.weight' not in p:
            return x
        n, width, height, _ = x.shape
        heads = c['heads']
        h = norm(name + '.group_norm', x).reshape(n, width, -1).transpose(1, 2)
        q, k, v = (linear(f'{name}.{part}', h).reshape(n, -1, heads, width // heads).transpose(1, 2)
                   for part in ('to_q', 'to_k', 'to_v'))
        scores = torch.softmax(q @ k.transpose(2, 3) / (width // heads) ** 0.5, -1)
        h = (scores @ v).transpose(1, 2).reshape(n, -1, width)
        return x + linear(name + '.to_out.0', h).transpose(1, 2).reshape(n, width, height, -1)

    half = c['base'] // 2
    angles = t[:, None] * torch.exp(-np.log(10000) * torch.arange(half, dtype=torch.float64) / (half - 1))
    time = torch.cat([angles.sin(), angles.cos()], 1)
    time = linear('time_embedding.linear_2', F.silu(linear('time_embedding.linear_1', time)))
    if c['classes']:
        time = time + p['class_embedding.weight'][classes]
    last = len(c['multipliers']) - 1
    h = conv('conv_in', x, padding=1)
    skips = [h]
    for level in range(last + 1):
        for i in range(c['blocks']):
            h = attention(f'down_blocks.{level}.attentions.{i}', resnet(f'down_blocks.{level}.resnets.{i}', h))
            skips.append(h)
        if level != last:
            h = conv(f'down_blocks.{level}.downsamplers.0.conv', F.pad(h, (0, 1, 0, 1)), stride=2)
            skips.append(h)
    h = resnet('mid_block.resnets.1', attention('mid_block.attentions.0', resnet('mid_block.resnets.0', h)))
    for up in range(last + 1):
        for i in range(c['blocks'] + 1):
            h = torch.cat([h, skips.pop()], 1)
            h = attention(f'up_blocks.{up}.attentions.{i}', resnet(f'up_blocks.{up}.resnets.{i}', h))
        if up != last:
            h = conv(f'up_blocks.{up}.upsamplers.0.conv', F.interpolate(h, scale_factor=2, mode='nearest'), padding=1)
    return conv('conv_out', F.silu(norm('conv_norm_out', h)), padding=1)


def image(c, k):
    """[N, H, W, C] -> [N, C, H, W], in [-2, 2)."""
    shape = (BATCH, c['size'], c['size'], c['channels'])
    return torch.tensor(16 * value(int(np.prod(shape)), k).reshape(shape)).permute(0, 3, 1, 2)


def main():
    full = '--full' in sys.argv
    c = json.loads(sys.argv[-1]) if full else CONFIG
    p = parameters(c)
    y = forward(c, p, image(c, 1000), torch.tensor(TIMES, dtype=torch.float64), torch.tensor(CLASSES))
    flat = y.permute(0, 2, 3, 1).reshape(-1)
    if full:
        print('\n'.join(f'{v:.17g}' for v in flat.tolist()))
        return
    loss = F.mse_loss(y, image(c, 1001))
    loss.backward()
    slopes = {name: (v.grad.reshape(-1) @ torch.tensor(value(v.numel(), 2000 + k))).item()   # along value(., 2000 + k)
              for k, (name, v) in enumerate(p.items())}

    def short(number):
        return float(f'{number:.12g}')

    print(json.dumps({
        'config': c, 'times': TIMES, 'classes': CLASSES, 'parameters': sum(v.numel() for v in p.values()),
        'every': 11, 'output': [short(v) for v in flat[::11].tolist()], 'loss': short(loss.item()),
        'slopes': {name: short(slope) for name, slope in slopes.items()}}, indent=0))


main()
