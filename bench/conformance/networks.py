"""All checks on one network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from bench.conformance import verdicts
from bench.conformance.arguments import made_up, without
from bench.conformance.observe import said
from bench.conformance.sizes import other_sizes
from bench.conformance.subject import Made, Subject, capture, double, put
from bench.conformance.verdicts import Finding
from bench.zoo.names import engine
from bench.zoo.network import Network
from torch import Tensor, nn

import widthwise as ww

UNKNOWN = "no_such_argument"


def check(network: Network) -> dict[str, Any]:
    """The findings on a network of the zoo, as plain values."""
    began = time.process_time()
    findings = conform(network.make)
    return row(network.name, findings) | {"seconds": round(time.process_time() - began, 1)}


def row(name: str, findings: list[Finding]) -> dict[str, Any]:
    """What is stored of a network."""
    return {"name": name, "engine": engine(), "findings": [asdict(f) for f in findings]}


def conform(make: Callable[[], Made]) -> list[Finding]:
    """Hold the Elastic against the model: both modes, again, other sizes, other arguments.

    make: a function that returns (model, args, kwargs), alike for the same seed of torch.
    """
    with double():
        subject, traced = capture(lambda: _as_they_come(make))
        return [traced] if subject is None else [traced, *full_width(subject)]


def _as_they_come(make: Callable[[], Made]) -> Made:
    """What `make` returns in single precision: some models try themselves out while they are made,
    on tables that are always of it."""
    torch.set_default_dtype(torch.float32)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float64)


def full_width(subject: Subject) -> Iterator[Finding]:
    """All that must be the model's at full width."""
    for training in (False, True):
        mode = "training" if training else "evaluation"
        yield subject.check(mode, training=training)
        yield subject.check(f"{mode}, twice in a row", training=training, calls=2)
    yield subject.check("every second parameter frozen", training=True, around=_frozen)
    yield subject.check("without gradients", training=True, around=lambda _: torch.no_grad())
    yield subject.check("in inference mode", around=lambda _: torch.inference_mode())
    for number, (name, (args, kwargs)) in enumerate(other_sizes(subject.args, subject.kwargs)):
        for training in (True, False) if number == 1 else (bool(number % 2),):
            mode = "training" if training else "evaluation"
            yield subject.check(f"{name}, {mode}", training=training, args=args, kwargs=kwargs)
    yield from _arguments(subject)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Every second parameter is frozen, as users do after the Elastic is made."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before[::2]:
            p.requires_grad_(False)
        yield
    finally:
        for p, needed in before:
            p.requires_grad_(needed)


def _arguments(subject: Subject) -> Iterator[Finding]:
    args, kwargs = subject.args, subject.kwargs
    for name, (fewer, named) in without(subject.reference, args, kwargs):
        yield subject.check(f"without argument {name}", training=True, args=fewer, kwargs=named)
    yield subject.check(f"argument {UNKNOWN}", kwargs={**kwargs, UNKNOWN: 1})
    put(subject.reference, subject.saved)
    for name, value in list(made_up(subject.reference, args, kwargs)):
        more = {**kwargs, name: value}
        yield subject.check(f"argument {name}", kwargs=more)
        if isinstance(value, Tensor):
            yield from _in_the_example(subject, name, more)


def _in_the_example(subject: Subject, name: str, kwargs: dict[str, Any]) -> Iterator[Finding]:
    """The same argument, in the example: with it, with another value, and without."""
    saved = subject.saved
    check = f"argument {name} in the example"
    try:
        net = subject.elastic(subject.args, kwargs)
    except ww.errors.WidthwiseError as error:
        yield Finding(check, verdicts.REFUSED, said(error))
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        yield Finding(check, verdicts.ERROR, said(error))
        return
    finally:
        subject.saved = saved
    yield subject.check(check, training=True, kwargs=kwargs, net=net)
    other = {**kwargs, name: kwargs[name].flip(0)}
    yield subject.check(f"{check}, another value", kwargs=other, net=net)
    yield subject.check(f"{check}, then without it", kwargs=subject.kwargs, net=net)
