"""Writes unet2d_torch.json: outputs of two small networks of the UNet2DModel kind, computed by PyTorch in f64.

    python3 unet2d_torch.py > unet2d_torch.json                (needs torch and numpy; any recent version)

The modules below are plain PyTorch and carry the names and layouts of diffusers' weights: convolutions [out, in, kh, kw],
linear layers [out, in]. No weights are stored. Element i of the tensor that is k-th in the sorted list of names is
value(i, k) below, plus 1 for the scale of a GroupNorm. Values are multiples of 2^-18, exact in f32.
tests/test_interchange.cpp evaluates the same formula, writes the tensors to a file under these names and imports it.
"""
import json
import math

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

COMMON = dict(_class_name='UNet2DModel', sample_size=8, in_channels=2, out_channels=2, act_fn='silu',
              center_input_sample=False, mid_block_scale_factor=1, time_embedding_type='positional')
CONFIGS = {
    # As google/ddpm-cifar10-32 has it.
    'ddpm': dict(COMMON, block_out_channels=[32, 64, 64], layers_per_block=2,
                 down_block_types=['DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'],
                 up_block_types=['UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'], attention_head_dim=None, norm_eps=1e-6,
                 norm_num_groups=32, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1),
    # As UNet2DModel has it by default, and with classes.
    'defaults': dict(COMMON, block_out_channels=[16, 32, 48], layers_per_block=1,
                     down_block_types=['DownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D'],
                     up_block_types=['AttnUpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'], attention_head_dim=8, norm_eps=1e-5,
                     norm_num_groups=8, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0, num_class_embeds=3),
}
BATCH, TIMES, CLASSES, EVERY = 2, [962.5, 3.0], [0, 2], 3


def value(count, k):
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + np.uint64(k) * 40503 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    return (((h >> np.uint64(16)) & 0xFFFF).astype(np.float64) - 32768) / 2**18      # [-1/8, 1/8)


class Resnet(nn.Module):
    def __init__(self, c, cin, cout):
        super().__init__()
        time = 4 * c['block_out_channels'][0]
        self.norm1 = nn.GroupNorm(c['norm_num_groups'], cin, c['norm_eps'])
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, cout)
        self.norm2 = nn.GroupNorm(c['norm_num_groups'], cout, c['norm_eps'])
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout:
            self.conv_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, 'conv_shortcut') else x)


class Attention(nn.Module):
    def __init__(self, c, width):
        super().__init__()
        self.heads = width // (c['attention_head_dim'] or width)
        self.group_norm = nn.GroupNorm(c['norm_num_groups'], width, c['norm_eps'])
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x):
        n, width, height, _ = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)                             # [N, tokens, C]
        q, k, v = (part(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v))
        scores = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // self.heads), -1)
        h = self.to_out[0]((scores @ v).transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).reshape(n, width, height, -1)


class Resample(nn.Module):
    def __init__(self, width, **options):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, **options)


class Block(nn.Module):
    """Resnets, each followed by an attention if there are any."""

    def __init__(self, c, widths_in, width, attends):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, cin, width) for cin in widths_in])
        if attends:
            self.attentions = nn.ModuleList([Attention(c, width) for _ in widths_in])

    def attend(self, i, h):
        return self.attentions[i](h) if hasattr(self, 'attentions') else h


class UNet2D(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        widths = c['block_out_channels']
        time = 4 * widths[0]
        self.conv_in = nn.Conv2d(c['in_channels'], widths[0], 3, padding=1)
        self.time_embedding = nn.Module()
        self.time_embedding.linear_1 = nn.Linear(widths[0], time)
        self.time_embedding.linear_2 = nn.Linear(time, time)
        if c.get('num_class_embeds'):
            self.class_embedding = nn.Embedding(c['num_class_embeds'], time)
        blocks, last, h, skips = c['layers_per_block'], len(widths) - 1, widths[0], [widths[0]]
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            block = Block(c, [h] + [width] * (blocks - 1), width, c['down_block_types'][level].startswith('Attn'))
            h = width
            skips += [h] * blocks
            if level != last:
                block.downsamplers = nn.ModuleList([Resample(h, stride=2, padding=c['downsample_padding'])])
                skips.append(h)
            self.down_blocks.append(block)
        self.mid_block = Block(c, [h, h], h, False)
        self.mid_block.attentions = nn.ModuleList([Attention(c, h)])
        for up, width in enumerate(reversed(widths)):
            widths_in = []
            for _ in range(blocks + 1):
                widths_in.append(h + skips.pop())
                h = width
            block = Block(c, widths_in, width, c['up_block_types'][up].startswith('Attn'))
            if up != last:
                block.upsamplers = nn.ModuleList([Resample(h, padding=1)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(c['norm_num_groups'], h, c['norm_eps'])
        self.conv_out = nn.Conv2d(h, c['out_channels'], 3, padding=1)

    def forward(self, x, t, classes):
        c = self.c
        half = c['block_out_channels'][0] // 2
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=t.dtype) / (half - c['freq_shift']))
        halves = [angles.cos(), angles.sin()] if c['flip_sin_to_cos'] else [angles.sin(), angles.cos()]
        time = self.time_embedding.linear_2(F.silu(self.time_embedding.linear_1(torch.cat(halves, 1))))
        if c.get('num_class_embeds'):
            time = time + self.class_embedding(classes)
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                h = block.attend(i, resnet(h, time))
                skips.append(h)
            if hasattr(block, 'downsamplers'):
                if c['downsample_padding'] == 0:
                    h = F.pad(h, (0, 1, 0, 1))                                        # right and below
                h = block.downsamplers[0].conv(h)
                skips.append(h)
        h = self.mid_block.attentions[0](self.mid_block.resnets[0](h, time))
        h = self.mid_block.resnets[1](h, time)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                h = block.attend(i, resnet(torch.cat([h, skips.pop()], 1), time))
            if hasattr(block, 'upsamplers'):
                h = block.upsamplers[0].conv(F.interpolate(h, scale_factor=2, mode='nearest'))
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def set_weights(module):
    for k, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        data = torch.tensor(value(tensor.numel(), k).reshape(tuple(tensor.shape)))
        is_scale = 'norm' in name.split('.')[-2] and name.endswith('.weight')
        tensor.copy_(data + 1 if is_scale else data)
    return module


def image(c, k):
    """[N, H, W, C] -> [N, C, H, W], in [-2, 2)."""
    shape = (BATCH, c['sample_size'], c['sample_size'], c['in_channels'])
    return torch.tensor(16 * value(math.prod(shape), k).reshape(shape)).permute(0, 3, 1, 2)


def main():
    cases = {}
    for name, c in CONFIGS.items():
        with torch.no_grad():
            module = set_weights(UNet2D(c).double())
            y = module(image(c, 1000), torch.tensor(TIMES, dtype=torch.float64), torch.tensor(CLASSES))
        flat = y.permute(0, 2, 3, 1).reshape(-1)[::EVERY].tolist()
        cases[name] = {'config': c, 'times': TIMES, 'classes': CLASSES, 'tensors': len(module.state_dict()),
                       'parameters': sum(v.numel() for v in module.state_dict().values()), 'every': EVERY,
                       'output': [float(f'{v:.12g}') for v in flat]}
    print(json.dumps(cases, indent=0))


if __name__ == '__main__':
    main()
