"""Random values for every parameter of a torch model, in sizes that keep its activations near one."""


def randomize(model, seed: int = 0) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.5
        scale = parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight")
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + float(scale)
