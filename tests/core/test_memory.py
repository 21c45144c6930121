"""Freed memory is kept where a command asks for it, and can be given back."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")

PASSES, LAYERS, MIB = 4, 6, 40
PAGES = PASSES * LAYERS * MIB * 2**20 // 4096
PROGRAM = f"""
import resource, sys, torch
from pathlib import Path
from linnaeus.core.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

def forward():
    x = torch.ones({MIB} * 2**18)
    for _ in range({LAYERS} - 1):
        x = x + 1

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(4):
    forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({PASSES}):
    forward()
faults, kept = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident()
return_freed_memory()
print(faults, kept - resident())
"""


def faults_and_returned(how: str, **environment: str) -> tuple[int, int]:
    """Pages that forward passes asked the system for, and pages that it got back in the end."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env=environment, capture_output=True, text=True, check=True
    )
    faults, returned = ran.stdout.split()
    return int(faults), int(returned)


def test_freed_memory_is_used_again_and_can_be_given_back():
    faults, returned = faults_and_returned("keep")
    assert faults < PAGES / 10
    assert returned > MIB * 2**20 // 4096


def test_nothing_changes_unasked_or_where_the_environment_has_its_own():
    assert faults_and_returned("no")[0] > PAGES * 0.8
    assert faults_and_returned("keep", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")[0] > PAGES * 0.8
