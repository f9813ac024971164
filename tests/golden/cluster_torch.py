"""Writes cluster_torch.json: outputs, loss and gradients of a small encoder and gated UNet, computed by PyTorch in f64.

    python3 cluster_torch.py > cluster_torch.json          (needs torch and numpy; any recent version)

Weights follow from value(i, k) of unet_torch.py: element i, in Mote's layout (convolutions [kh, kw, in, out], transposed
ones [in, kh, kw, out], linear layers [in, out]), of the parameter that is k-th in the sorted list of names, plus 1 for
the scale of a norm. Layers are torch's own, transposed convolutions included. tests/test_cluster_net.cpp repeats it.
"""
import json

import numpy as np
import torch
import torch.nn.functional as F

SIZE, CHANNELS, WIDTH, LATENT, BATCH, TIMES = 8, 2, 8, 3, 3, [0.125, 0.5, 1.0]


def value(count, k):
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + np.uint64(k) * 40503 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    return (((h >> np.uint64(16)) & 0xFFFF).astype(np.float64) - 32768) / 2**18      # [-1/8, 1/8)


def shapes():
    """Name -> shape of encoder and UNet together, under encoder.* and denoiser.*."""
    out = {}

    def layer(name, *shape):
        out[name + '.weight'], out[name + '.bias'] = shape, shape[-1:]

    def block(name, cin, cout):
        for half, width in (('1', cin), ('2', cout)):
            layer(f'{name}.conv{half}', 3, 3, width, cout)
            layer(f'{name}.norm{half}', cout)

    def gate(name, cin, cout):
        layer(name + '.linear1', cin, cout)
        layer(name + '.linear2', cout, cout)

    n = WIDTH
    for net in ('encoder', 'denoiser'):
        block(net + '.init', CHANNELS, n)
        block(net + '.down1', n, n)
        block(net + '.down2', n, 2 * n)
    layer('encoder.mean', 2 * n, LATENT)
    layer('encoder.log_variance', 2 * n, LATENT)
    layer('denoiser.up0', 2 * n, SIZE // 4, SIZE // 4, 2 * n)
    layer('denoiser.up0_norm', 2 * n)
    gate('denoiser.code1', LATENT, 2 * n)
    gate('denoiser.time1', 1, 2 * n)
    gate('denoiser.code2', LATENT, n)
    gate('denoiser.time2', 1, n)
    for up, cin in (('up1', 4 * n), ('up2', 2 * n)):
        layer(f'denoiser.{up}.grow', cin, 2, 2, n)
        block(f'denoiser.{up}.block1', n, n)
        block(f'denoiser.{up}.block2', n, n)
    layer('denoiser.out1', 3, 3, 2 * n, n)
    layer('denoiser.out_norm', n)
    layer('denoiser.out2', 3, 3, n, CHANNELS)
    return out


def parameters():
    p = {}
    for k, (name, shape) in enumerate(sorted(shapes().items())):
        v = value(int(np.prod(shape)), k).reshape(shape)
        if name.endswith('.weight') and 'norm' in name.split('.')[-2]:
            v = v + 1
        p[name] = torch.tensor(v, requires_grad=True)
    return p


def networks(p, batch_norm):
    def conv(name, x):
        return F.conv2d(x, p[name + '.weight'].permute(3, 2, 0, 1), p[name + '.bias'], padding=1)

    def grow(name, x, factor):
        return F.conv_transpose2d(x, p[name + '.weight'].permute(0, 3, 1, 2), p[name + '.bias'], stride=factor)

    def group(name, x, groups):
        return F.group_norm(x, groups, p[name + '.weight'], p[name + '.bias'], 1e-5)

    def norm(name, x):
        if batch_norm:
            return F.batch_norm(x, None, None, p[name + '.weight'], p[name + '.bias'], True, 0.1, 1e-5)
        return group(name, x, min(32, x.shape[1] // 4))

    def block(name, x, residual=False):
        first = F.gelu(norm(name + '.norm1', conv(name + '.conv1', x)))
        second = F.gelu(norm(name + '.norm2', conv(name + '.conv2', first)))
        return (first + second) / 1.414 if residual else second

    def dense(name, x):
        return x @ p[name + '.weight'] + p[name + '.bias']

    def gate(name, x):
        return dense(name + '.linear2', F.gelu(dense(name + '.linear1', x)))[:, :, None, None]

    def down(net, x):
        full = block(net + '.init', x, residual=True)
        half = F.max_pool2d(block(net + '.down1', full), 2)
        return full, half, F.max_pool2d(block(net + '.down2', half), 2)

    def encoder(x):
        h = F.gelu(F.avg_pool2d(down('encoder', x)[2], SIZE // 4).flatten(1))
        return dense('encoder.mean', h), dense('encoder.log_variance', h)

    def denoiser(x, t, z):
        d, t = 'denoiser.', t[:, None]
        full, half, quarter = down('denoiser', x)
        h = grow(d + 'up0', F.gelu(F.avg_pool2d(quarter, SIZE // 4)), SIZE // 4)
        h = F.relu(group(d + 'up0_norm', h, 8))
        h = gate(d + 'code1', z) * h + gate(d + 'time1', t)
        h = grow(d + 'up1.grow', torch.cat([h, quarter], 1), 2)
        h = block(d + 'up1.block2', block(d + 'up1.block1', h))
        h = gate(d + 'code2', z) * h + gate(d + 'time2', t)
        h = grow(d + 'up2.grow', torch.cat([h, half], 1), 2)
        h = block(d + 'up2.block2', block(d + 'up2.block1', h))
        h = F.relu(group(d + 'out_norm', conv(d + 'out1', torch.cat([h, full], 1)), 8))
        return conv(d + 'out2', h)

    return encoder, denoiser


def image(k):
    shape = (BATCH, SIZE, SIZE, CHANNELS)
    return torch.tensor(16 * value(int(np.prod(shape)), k).reshape(shape)).permute(0, 3, 1, 2)


def main():
    def short(number):
        return float(f'{number:.12g}')

    cases = {}
    for batch_norm in (False, True):
        p = parameters()
        encoder, denoiser = networks(p, batch_norm)
        mean, log_variance = encoder(image(1000))
        y = denoiser(image(1001), torch.tensor(TIMES, dtype=torch.float64), mean)
        loss = F.mse_loss(y, image(1002)) + (log_variance ** 2).mean()
        loss.backward()
        cases['batch' if batch_norm else 'group'] = {
            'mean': [short(v) for v in mean.flatten().tolist()],
            'log_variance': [short(v) for v in log_variance.flatten().tolist()],
            'output': [short(v) for v in y.permute(0, 2, 3, 1).reshape(-1)[::7].tolist()],
            'loss': short(loss.item()),
            'slopes': {name: short((v.grad.reshape(-1) @ torch.tensor(value(v.numel(), 2000 + k))).item())
                       for k, (name, v) in enumerate(p.items())}}
    print(json.dumps({'size': SIZE, 'channels': CHANNELS, 'width': WIDTH, 'latent': LATENT, 'times': TIMES, 'every': 7,
                      'cases': cases}, indent=0))


main()
