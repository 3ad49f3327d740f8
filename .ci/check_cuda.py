"""Checks what is in the library of the CUDA backend: `python .ci/check_cuda.py BUILD CUOBJDUMP`.

BUILD is the folder of a CMake build with BNFAST_CUDA_ARCHITECTURES; CUOBJDUMP is NVIDIA's program
of that name, which says what the kernels of a library take of a GPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# A processor of any GPU has 65,536 registers: so many of a thread leave room for two blocks of 256
# threads, of which one computes while the other waits for memory.
MOST_REGISTERS = 128
# Registers that do not suffice are spilled to memory, on a stack. The kernels of plain calls (as in
# cpp/src/cuda/kernels/walk.h) are to have what their loops need: forward of channels last keeps
# numbers of four statistics in between. The others call long functions.
MOST_STACK_BYTES_OF_PLAIN, MOST_STACK_BYTES = 128, 256
EXPORTED = {"bnfast_cuda_library"}  # the names that others see
LARGEST_LIBRARY = 12_000_000  # bytes, for the few architectures of CI


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes of a GPU of some architecture."""

    name: str
    architecture: str
    registers: int
    stack_bytes: int


def output(*command: str | Path, text: str = "") -> str:
    """What a program prints that reads the text."""
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def read_contents(resources: str) -> tuple[list[Kernel], set[str]]:
    """The kernels in what `cuobjdump --dump-resource-usage` says, and the architectures of PTX."""
    part = re.compile(
        r"^Fatbin (elf|ptx) code:\n=+\narch = sm_(\w+)$(.*?)(?=^Fatbin|\Z)", re.M | re.S
    )
    usage = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)")
    parts = part.findall(resources)
    kernels = [
        Kernel(name, architecture, int(registers), int(stack))
        for kind, architecture, text in parts
        if kind == "elf"
        for name, registers, stack in usage.findall(text)
    ]
    return kernels, {architecture for kind, architecture, _ in parts if kind == "ptx"}


def requested(cache: str) -> tuple[set[str], set[str]]:
    """Of which architectures CMakeCache.txt wants machine code, and of which PTX."""
    (value,) = re.findall(r"^BNFAST_CUDA_ARCHITECTURES:\w+=(.+)$", cache, re.MULTILINE)
    names = value.split(";")
    return (
        {n.removesuffix("-real") for n in names if not n.endswith("-virtual")},
        {n.removesuffix("-virtual") for n in names if not n.endswith("-real")},
    )


def check_architectures(kernels: list[Kernel], ptx: set[str], cache: str) -> list[str]:
    """Complaints about what the library was compiled for."""
    wanted, wanted_ptx = requested(cache)
    count = Counter(kernel.architecture for kernel in kernels)
    complaints = []
    if set(count) != wanted or len(set(count.values())) != 1:
        expected = f"the same kernels for each of {sorted(wanted)}"
        complaints.append(f"kernels for each architecture: {dict(count)}, expected {expected}")
    if ptx != wanted_ptx:
        complaints.append(f"PTX for {sorted(ptx)}, expected {sorted(wanted_ptx)}")
    return complaints


def check_kernel(kernel: Kernel) -> list[str]:
    """Complaints about what a kernel takes."""
    plain = re.search(r"4WalkI\w+?Li\d+ELb[01]ELb1E", kernel.name)
    limits = {
        "registers": (kernel.registers, MOST_REGISTERS),
        "bytes of stack": (
            kernel.stack_bytes,
            MOST_STACK_BYTES_OF_PLAIN if plain else MOST_STACK_BYTES,
        ),
    }
    return [
        f"sm_{kernel.architecture}: {taken} {what}, expected {most} at most: {kernel.name}"
        for what, (taken, most) in limits.items()
        if taken > most
    ]


def main(build: Path, cuobjdump: Path) -> int:
    """Check the library, print the complaints, and what the kernels take at most."""
    library = build / "cpp/libbnfast_cuda.so"
    kernels, ptx = read_contents(output(cuobjdump, "--dump-resource-usage", library))
    complaints = check_architectures(kernels, ptx, (build / "CMakeCache.txt").read_text())
    for kernel in kernels:
        complaints += check_kernel(kernel)
    symbols = output("nm", "-D", "--defined-only", library).splitlines()
    names = {line.split()[-1] for line in symbols}
    if names != EXPORTED:
        complaints.append(f"exported: {sorted(names)}, expected {sorted(EXPORTED)}")
    if (size := library.stat().st_size) > LARGEST_LIBRARY:
        complaints.append(f"{size} bytes, expected {LARGEST_LIBRARY} at most")
    if complaints:
        print(output("c++filt", text="\n".join(complaints)), file=sys.stderr)
    for architecture in sorted({k.architecture for k in kernels}, key=int):
        registers = [k.registers for k in kernels if k.architecture == architecture]
        print(f"sm_{architecture}: {len(registers)} kernels, {max(registers)} registers at most")
    print(f"{library.name}: {size} B")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
