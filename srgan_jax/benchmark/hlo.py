"""What the text of a program compiled for TPUs says: layouts, and what it is reckoned to cost."""

import math
import re
from collections import Counter
from typing import Any

from srgan_jax.benchmark import counts

# %name = f32[16,96,96,3]{0,3,2,1:T(8,128)} convolution(%image, %kernel), ...
_OPERATION = re.compile(r"%([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)")
_LAYOUT = re.compile(r"\w+\[([\d,]*)\]\{([\d,]*)(?::T\((\d+),(\d+)\))?")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CUSTOM_CALL = re.compile(r'custom_call_target="([^"]+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')


def operations(text: str) -> list[tuple[str, str, str, str]]:
    """(name, type, kind, rest of the line) of everything in a program."""
    return _OPERATION.findall(text)


def layout(letters: str, type_: str) -> str:
    """An array's sides, its axes on sublanes and lanes, and how many times larger tiling makes it.

    b01f[16, 24, 24, 64] bf x2.00: batch on sublanes, features on lanes, of which half are empty.
    """
    sides, order, *tile = _LAYOUT.findall(type_)[0]
    sides, order = ([int(x) for x in part.split(",") if x] for part in (sides, order))
    grown = 1.0
    for axis, step in zip(order, [int(x) for x in reversed(tile) if x], strict=False):
        grown *= math.ceil(sides[axis] / step) * step / sides[axis]
    return f"{letters}{sides} {''.join(letters[i] for i in reversed(order[:2]))} x{grown:.2f}"


def convolutions(text: str) -> Counter[str]:
    """Image | kernel | result of each convolution and product, by `layout`."""
    types = {name: type_ for name, type_, _, _ in operations(text)}
    found: Counter[str] = Counter()
    for _, made, kind, rest in operations(text):
        labels = _LABELS.search(rest)
        if kind == "convolution" and labels:
            image, kernel = re.findall(r"%([\w.-]+)", rest)[:2]
            arrays = zip(labels.groups(), (types[image], types[kernel], made), strict=True)
            found[" | ".join(layout(letters, type_) for letters, type_ in arrays)] += 1
    return found


def estimates(text: str) -> Counter[str]:
    """The cycles that the compiler reckons with, by the operation of the model."""
    found: Counter[str] = Counter()
    for _, _, kind, rest in operations(text[text.index("\nENTRY") :]):
        if cycles := _CYCLES.search(rest):
            name = _NAME.search(rest)
            found[f"{kind} of {name.group(1) if name else '?'}"] += int(cycles.group(1))
    return found


def describe(program: Any) -> str:
    """Arithmetic, memory, collectives, slowest operations and convolutions, in lines."""
    text, cost, memory = program.as_text(), program.cost_analysis(), program.memory_analysis()
    sizes = {
        name: f"{getattr(memory, f'{name}_size_in_bytes') / 1e6:.1f} MB"
        for name in ("argument", "output", "alias", "temp", "generated_code")
    }
    collectives = Counter((x.kind, x.shape) for sent in counts.sent_by(program) for x in sent)
    cycles = estimates(text)
    lines = [
        f"{cost['flops'] / 1e9:.2f} GFLOP, {cost['bytes accessed'] / 1e9:.3f} GB accessed; {sizes}",
        f"collectives: {collectives.total()}, {dict(collectives)}",
        f"custom calls: {dict(Counter(_CUSTOM_CALL.findall(text)))}",
        f"operations: {dict(Counter(kind for _, _, kind, _ in operations(text)).most_common())}",
        f"estimated: {cycles.total() / 1e6:.2f} million cycles",
    ]
    lines += [f"  {count / cycles.total():6.1%} {name}" for name, count in cycles.most_common(12)]
    lines += [f"  {count:4} x {name}" for name, count in convolutions(text).most_common()]
    return "\n".join("  " + line for line in lines)
